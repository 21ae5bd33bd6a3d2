"""The update, its state and its staging where the tensors lie on a device: one that is simulated."""

from __future__ import annotations

import os
import sys

import pytest
from tests.simdev import together
from tests.simdev.accelerators import offer

pytestmark = pytest.mark.simulated

MODULE = "tests.training.device_checks"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    environment = offer(tmp_path_factory.mktemp("packages"))
    paths = os.pathsep.join([environment["PYTHONPATH"], *sys.path])
    return together.run(MODULE, environment | {"SIMDEV_VENDOR": "sima", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("name", together.names_of(MODULE))
def test_the_update_of_a_device(name: str, results: dict[str, str]) -> None:
    assert not results[name], results[name]
