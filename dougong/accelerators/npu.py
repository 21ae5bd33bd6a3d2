"""Huawei Ascend NPUs: torch_npu, CANN and HCCL.

Written against torch-npu 2.13's interface; this file's path on a real NPU has not been run by the
project yet. The first things to check on one: uneven and empty HCCL all_to_all, the types that aten
operators take, and the fingerprint.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dougong.accelerators.base import (
    HOST_VARIABLES,
    Accelerator,
    package_version,
    switch_on_determinism,
    thread_environment,
    visible_count,
)
from dougong.accelerators.telemetry.ascend import AscendTelemetry
from dougong.errors import DeviceError

if TYPE_CHECKING:
    import torch

    from dougong.accelerators.telemetry.reading import Telemetry
    from dougong.ops.experts.base import ExpertOp


DETERMINISTIC = {
    # Read when a communicator is made: the same input and cluster then give the same bits.
    "HCCL_DETERMINISTIC": "true",
    "LCCL_DETERMINISTIC": "1",
    # Otherwise each core begins a product's long sum at a place of its own, which follows from the
    # shape.
    "CLOSE_MATMUL_K_SHIFT": "1",
    "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
}


class Npu(Accelerator):
    """One worker per NPU."""

    name = "npu"
    resource = "NPU"
    backend = "hccl"
    visible_devices_variable = "ASCEND_RT_VISIBLE_DEVICES"
    interface_variable = "HCCL_SOCKET_IFNAME"
    tells_health = True
    arithmetic_variables = (*HOST_VARIABLES, *DETERMINISTIC)

    def device_count(self, visible: str | None = None) -> int | None:
        return visible_count(len(_device_files()), visible)

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        # An operator without a kernel must fail, not run unseen on the host.
        variables = thread_environment(threads) | {
            "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",
            # As for NCCL: a worker outlives the loss of a peer.
            "TORCH_HCCL_ASYNC_ERROR_HANDLING": "0",
        }
        return variables | (DETERMINISTIC if deterministic else {})

    def open(self, index: int, deterministic: bool = True) -> torch.device:
        import torch

        npu = _plugin().npu
        count = npu.device_count()
        if index >= count:
            raise DeviceError(
                f"accelerator npu: device {index} is asked for, torch_npu sees {count}, "
                f"{_found()}; lower islands.workers, widen ASCEND_RT_VISIBLE_DEVICES, or check the "
                "driver with npu-smi info"
            )
        try:
            npu.set_device(index)
        except RuntimeError as error:
            raise DeviceError(
                f"accelerator npu: device {index} does not open ({error}), {_found()}; "
                "see npu-smi info"
            ) from error
        if deterministic:
            switch_on_determinism()
            npu.matmul.allow_hf32 = False
            npu.conv.allow_hf32 = False
        return torch.device("npu", index)

    def describe(self) -> dict[str, str]:
        return {
            "name": f"{len(_device_files())} davinci device(s)",
            "driver": _driver(),
            "torch-npu": _version(),
        }

    def telemetry(self) -> Telemetry:
        return AscendTelemetry()

    def device_keys(self) -> tuple[str, ...]:
        try:
            return AscendTelemetry().keys
        except DeviceError:
            return ()

    def missing(self) -> str:
        if package_version("torch-npu") is None:
            return "torch-npu is not installed: pip install 'dougong[npu]'"
        return ""

    def expert_operators(self) -> Iterator[ExpertOp]:
        from dougong.ops.experts import ascend_swiglu

        yield from ascend_swiglu.expert_operators()


def _plugin() -> Any:
    """torch_npu, which adds the device `npu` to torch; needs CANN's libraries on the loader's
    path."""
    try:
        import torch_npu
    except ImportError as error:
        raise DeviceError(
            f"accelerator npu: torch_npu does not load ({error}), {_found()}; install Ascend's "
            "driver and CANN, source CANN's set_env.sh in the shell that starts the node's Ray (or "
            "dougong), and pip install 'dougong[npu]'"
        ) from error
    return torch_npu


def _found() -> str:
    host, count = platform.node(), len(_device_files())
    return f"{host} has {count} NPU(s) in /dev, driver {_driver()}, torch-npu {_version()}"


def _device_files() -> list[Path]:
    return sorted(
        path
        for path in Path("/dev").glob("davinci*")
        if path.name.removeprefix("davinci").isdigit()
    )


def _driver() -> str:
    file = Path("/usr/local/Ascend/driver/version.info")
    if not file.is_file():
        return "not found"
    for line in file.read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "Version":
            return value.strip()
    return "unknown"


def _version() -> str:
    return package_version("torch-npu") or "not installed"
