"""What every kind of device shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.accelerators.base import (
    HOST_VARIABLES,
    Accelerator,
    switch_on_determinism,
    thread_environment,
    visible_count,
    visible_keys,
    visible_readings,
    without_devices,
)
from dougong.accelerators.cpu import Cpu
from dougong.accelerators.cuda import Cuda
from dougong.accelerators.npu import Npu
from dougong.accelerators.registry import BUILT_IN
from dougong.accelerators.telemetry.reading import DeviceReading


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("2", 1),
        ("3,0", 2),
        (" 0 , 1 ", 2),
        ("0,7,1", 1),
        ("0,-1,1", 1),
        ("GPU-1f2e,GPU-77", 2),
        ("0,1,2,3,0,1", 4),
    ],
)
def test_visible_devices_narrow_what_is_found(visible: str | None, count: int) -> None:
    assert visible_count(4, visible) == count


def test_threads_are_fixed_in_every_library() -> None:
    environment = thread_environment(3)
    assert {environment[f"{library}_NUM_THREADS"] for library in ("OMP", "MKL")} == {"3"}
    assert {environment[f"{library}_DYNAMIC"] for library in ("OMP", "MKL")} == {"FALSE"}
    assert environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"


def test_only_processors_are_shared_by_their_workers() -> None:
    assert [kind.name for kind in BUILT_IN if kind.shares_machine] == ["cpu"]


@pytest.mark.parametrize("kind", BUILT_IN)
def test_what_a_worker_s_environment_sets_for_arithmetic_is_among_the_variables_that_change_it(
    kind: type[Accelerator],
) -> None:
    """TORCH_DEVICE_BACKEND_AUTOLOAD, CUDA_DEVICE_ORDER and the like choose what is loaded and how it ends, not how it
    computes."""
    loading = {"TORCH_DEVICE_BACKEND_AUTOLOAD", "CUDA_DEVICE_ORDER", "TORCH_NPU_FALLBACK_CPU_DISABLE"}
    loading |= {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_HCCL_ASYNC_ERROR_HANDLING", "PYTORCH_NVML_BASED_CUDA_CHECK"}
    names = set(kind().worker_environment(1)) - loading
    assert names
    assert [name for name in names if not name.startswith(kind.arithmetic_variables)] == []
    assert set(HOST_VARIABLES) <= set(kind.arithmetic_variables)


def test_an_accelerator_offers_no_fused_experts_by_default() -> None:
    assert list(Cpu().expert_operators()) == []


def modes() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def test_the_switch_is_strict() -> None:
    before = modes()
    try:
        switch_on_determinism()
        assert modes() == (True, False)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class Group:
    """A process group that takes down what is done to it."""

    def __init__(self, name: str, done: list[str]) -> None:
        self._name, self._done = name, done

    def abort(self) -> None:
        self._done.append(f"abort {self._name}")

    def _get_backend(self, device: torch.device) -> Group:
        self._done.append(f"backend for {device}")
        return self

    def _group_start(self) -> None:
        self._done.append("start")

    def _group_end(self) -> None:
        self._done.append("end")


def test_groups_of_a_native_library_are_aborted_those_of_nccl_in_one_call() -> None:
    """On no device: the calls are those of torch 2.13; a real NCCL or HCCL has not been aborted by the project yet."""
    by_kind: dict[str, list[str]] = {}
    for kind in (Cpu, Cuda, Npu):
        done: list[str] = []
        groups: Any = [Group("a", done), Group("b", done)]
        kind().abort(groups)
        kind().abort([])
        by_kind[kind.name] = done
    assert by_kind["cpu"] == by_kind["npu"] == ["abort a", "abort b"]
    assert by_kind["cuda"] == ["backend for cuda", "start", "abort a", "abort b", "end"]


KEYS = ("GPU-aa1", "GPU-ab2", "GPU-b3")


@pytest.mark.parametrize(
    ("visible", "seen", "without"),
    [
        (None, KEYS, "0,2"),
        ("2,1", ("GPU-b3", "GPU-ab2"), "2"),
        ("GPU-ab2, GPU-aa", ("GPU-ab2", "GPU-aa1"), "GPU-aa"),
        ("GPU-a,0", (), ""),
        ("0,7,1", ("GPU-aa1",), "0"),
        ("", (), ""),
    ],
)
def test_devices_are_known_by_their_keys_as_a_vendors_library_counts_them(
    visible: str | None, seen: tuple[str, ...], without: str
) -> None:
    """A beginning that two of them have means none of them."""
    assert tuple(key for _, key in visible_keys(KEYS, visible)) == seen
    assert without_devices(KEYS, visible, ("GPU-ab2",)) == without
    readings = [DeviceReading(number, key) for number, key in enumerate(KEYS)]
    assert [reading.key for reading in visible_readings(readings, visible).values()] == list(seen)


def test_a_processor_tells_nothing_of_its_health() -> None:
    assert (Cpu().tells_health, Cpu().telemetry(), Cpu().device_keys()) == (False, None, ())
    assert Cuda().tells_health and Npu().tells_health
