"""What every test shares: arithmetic as a worker's, no network, and GPU tests only where there is a GPU."""

import os
import shutil
import sys
from collections.abc import Iterator

import pytest
from dougong.accelerators.base import switch_on_determinism
from dougong.accelerators.cpu import Cpu
from dougong.accelerators.cuda import Cuda
from dougong.testing.requirements import what_is_missing

# Before any test imports torch: one compute thread and the math library's modes are part of the arithmetic, so that
# what is computed in a test's own process can be compared bit by bit with what a worker computes.
os.environ.update(Cpu().worker_environment(1))
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need a GPU where none is found, those that need a lab of hosts where none can be made,
    those that need a compiler where there is none, and those that need torch_npu's package where there is none for this
    Python; they are counted as such in the last line."""
    if not Cuda().device_count(os.environ.get("CUDA_VISIBLE_DEVICES")):
        deselect(config, items, "gpu")
    if any(item.get_closest_marker("lab") for item in items) and what_is_missing() is not None:
        deselect(config, items, "lab")
    if shutil.which("g++") is None:
        deselect(config, items, "simulated")
    if sys.platform != "linux" or sys.version_info >= (3, 12) or not all(map(shutil.which, ("gcc", "nm", "readelf"))):
        deselect(config, items, "ascend")


def deselect(config: pytest.Config, items: list[pytest.Item], mark: str) -> None:
    away = [item for item in items if item.get_closest_marker(mark)]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if not item.get_closest_marker(mark)]


@pytest.fixture
def strict() -> Iterator[None]:
    """torch as a worker has it: an operator without a deterministic form raises."""
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switch_on_determinism()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
