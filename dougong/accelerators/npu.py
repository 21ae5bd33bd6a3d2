"""Huawei Ascend NPUs: torch_npu, CANN and HCCL.

Checked against torch-npu 2.13's own package (`tests/accelerators/ascend`) and on simulated devices;
no job has run on a real NPU yet. `docs/ascend.md` says what to look at first on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dougong.accelerators.base import HOST_VARIABLES
from dougong.accelerators.facts import Default, PeakRates
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.telemetry.ascend import AscendTelemetry, memory_sizes
from dougong.errors import DeviceError

if TYPE_CHECKING:
    from dougong.accelerators.telemetry.reading import Telemetry
    from dougong.ops.experts.base import ExpertOp


class Npu(GenericAccelerator):
    """One worker per NPU."""

    name = "npu"
    title = "Huawei Ascend NPUs"
    standing = "checked without hardware"
    also_called = ("ascend", "huawei")
    device_type = "npu"
    plugin = "torch_npu"
    package = "torch-npu"
    install = (
        "install Ascend's driver and CANN, source CANN's set_env.sh in the shell that starts the "
        "node's Ray (or dougong), and pip install 'dougong[npu]'"
    )
    backend = "hccl"
    resource = "NPU"
    visible_devices_variable = "ASCEND_RT_VISIBLE_DEVICES"
    interface_variable = "HCCL_SOCKET_IFNAME"
    device_files = "/dev/davinci[0-9]*"
    tool = "npu-smi info"
    tells_health = True
    fused_operators = ("experts.ascend_swiglu",)
    environment: ClassVar = {
        # An operator without a kernel must fail, not run unseen on the host.
        "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",
        # As for NCCL: a worker outlives the loss of a peer.
        "TORCH_HCCL_ASYNC_ERROR_HANDLING": "0",
    }
    deterministic_environment: ClassVar = {
        # Read when a communicator is made: the same input and cluster then give the same bits.
        "HCCL_DETERMINISTIC": "true",
        "LCCL_DETERMINISTIC": "1",
        # Otherwise each core begins a product's long sum at a place of its own, which follows from
        # the shape.
        "CLOSE_MATMUL_K_SHIFT": "1",
        "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
    }
    exact_switches: ClassVar = {"npu.matmul.allow_hf32": False, "npu.conv.allow_hf32": False}
    arithmetic_variables = (
        *HOST_VARIABLES,
        *deterministic_environment,
        "HCCL_ALGO",
        "INF_NAN_MODE_",
    )
    agreed_variables = ("HCCL_ALGO",)
    defaults = (
        Default("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True"),
        Default("TORCH_HCCL_TRACE_BUFFER_SIZE", "2000"),
    )
    peak_rates = (
        PeakRates("Ascend910", {"float16": 256e12}, "Huawei's announcement of Ascend 910, 2019"),
    )

    def driver(self) -> str:
        file = Path("/usr/local/Ascend/driver/version.info")
        if not file.is_file():
            return "not found"
        for line in file.read_text().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "Version":
                return value.strip()
        return "unknown"

    def memory_bytes(self) -> int | None:
        try:
            return max(memory_sizes(), default=None)
        except DeviceError:
            return None

    def telemetry(self) -> Telemetry:
        return AscendTelemetry()

    def device_keys(self) -> tuple[str, ...]:
        try:
            return AscendTelemetry().keys
        except DeviceError:
            return ()

    def expert_operators(self) -> Iterator[ExpertOp]:
        from dougong.ops.experts import ascend_swiglu

        yield from ascend_swiglu.expert_operators()
