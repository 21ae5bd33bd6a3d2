"""NVIDIA GPUs: CUDA and NCCL."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator, Sequence
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
from dougong.accelerators.telemetry.nvidia import NvidiaTelemetry
from dougong.errors import DeviceError

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

    from dougong.accelerators.telemetry.reading import Telemetry
    from dougong.ops.experts.base import ExpertOp


class Cuda(Accelerator):
    """One worker per GPU."""

    name = "cuda"
    resource = "GPU"
    backend = "nccl"
    visible_devices_variable = "CUDA_VISIBLE_DEVICES"
    interface_variable = "NCCL_SOCKET_IFNAME"
    tells_health = True
    arithmetic_variables = (
        *HOST_VARIABLES,
        "CUBLAS_",
        "CUBLASLT_",
        "CUDNN_",
        "FLASH_ATTENTION_",
        "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32",
    )

    def device_count(self, visible: str | None = None) -> int | None:
        return visible_count(len(_gpus()), visible)

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        # The order of nvidia-smi, so that a device's number means the same to everybody.
        variables = thread_environment(threads) | {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            # To ask whether there are devices opens none, so that a fork server's children can.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
            # A worker outlives the loss of a peer (`abort`). By default torch's own watchdog would
            # end the process then.
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
        }
        if deterministic:
            # cuBLAS gives the same bits in every run only with a workspace of fixed size.
            variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
            # The package flash_attn adds by atomics in its backward unless it is told not to.
            variables["FLASH_ATTENTION_DETERMINISTIC"] = "1"
        return variables

    def open(self, index: int, deterministic: bool = True) -> torch.device:
        import torch

        if torch.version.cuda is None:
            raise DeviceError(
                f"accelerator cuda: torch {torch.__version__} is built without CUDA, "
                f"{_found()}; install a CUDA build of the same version (pip install torch from an "
                "index of CUDA builds), or use accelerator: cpu"
            )
        count = torch.cuda.device_count()
        if index >= count:
            raise DeviceError(
                f"accelerator cuda: device {index} is asked for, torch sees {count}, "
                f"{_found()}; lower islands.workers, widen CUDA_VISIBLE_DEVICES, or check the "
                "driver with nvidia-smi"
            )
        try:
            torch.cuda.set_device(index)
        except RuntimeError as error:
            raise DeviceError(
                f"accelerator cuda: device {index} does not open ({error}), {_found()}; "
                "see nvidia-smi and dmesg"
            ) from error
        if deterministic:
            _exact_arithmetic()
        return torch.device("cuda", index)

    def describe(self) -> dict[str, str]:
        return {"name": ", ".join(_gpus()) or "none", "driver": _driver()}

    def memory_bytes(self) -> int | None:
        return max(_memory_sizes(), default=None)

    def telemetry(self) -> Telemetry:
        nvml = _nvml()
        if nvml is None:
            raise DeviceError(
                "NVML does not load, so that nothing tells how the GPUs are: pip install "
                "'dougong[cuda]', and see nvidia-smi"
            )
        return NvidiaTelemetry(nvml)

    def device_keys(self) -> tuple[str, ...]:
        return tuple(_uuids())

    def missing(self) -> str:
        version = package_version("torch") or "none"
        if version.endswith("+cpu"):
            return f"torch {version} is a build without CUDA"
        return ""

    def expert_operators(self) -> Iterator[ExpertOp]:
        if importlib.util.find_spec("triton") is None:
            return
        from dougong.ops.experts.triton_swiglu import make_grouped

        yield make_grouped()

    def abort(self, groups: Sequence[dist.ProcessGroup]) -> None:
        import torch

        if not groups:
            return
        # Together: the aborts of several communicators may wait for one another (pytorch#119797).
        library: Any = groups[0]._get_backend(torch.device("cuda"))
        library._group_start()
        try:
            super().abort(groups)
        finally:
            library._group_end()


def _exact_arithmetic() -> None:
    """No TF32, no reductions in bfloat16, no kernel chosen by a race: speed that would change
    bits."""
    import torch

    switch_on_determinism()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # cuDNN's attention has no backward of fixed bits; flash attention, which comes next, has.
    torch.backends.cuda.enable_cudnn_sdp(False)


def _found() -> str:
    gpus = _gpus()
    names = ", ".join(gpus) or "none"
    return f"{platform.node()} has {len(gpus)} GPU(s) ({names}), driver {_driver()}"


def _gpus() -> list[str]:
    """Each GPU's name by NVML (package nvidia-ml-py, extra `cuda`), else from the driver's files in
    /proc."""
    nvml = _nvml()
    if nvml is None:
        return [_proc_name(folder) for folder in sorted(Path("/proc/driver/nvidia/gpus").glob("*"))]
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [str(nvml.nvmlDeviceGetName(handle)) for handle in handles]
    finally:
        nvml.nvmlShutdown()


def _memory_sizes() -> list[int]:
    """Each GPU's memory; none where only the driver's files are there, which do not say it."""
    nvml = _nvml()
    if nvml is None:
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [int(nvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles]
    finally:
        nvml.nvmlShutdown()


def _uuids() -> list[str]:
    nvml = _nvml()
    if nvml is None:
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [str(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    finally:
        nvml.nvmlShutdown()


def _driver() -> str:
    nvml = _nvml()
    if nvml is None:
        return "not found"
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    finally:
        nvml.nvmlShutdown()


def _nvml() -> Any | None:
    """NVML, started; None where the package or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _proc_name(folder: Path) -> str:
    """A GPU's model as the driver's file has it, else the name of its folder."""
    file = folder / "information"
    if not file.exists():
        return folder.name
    for line in file.read_text().splitlines():
        if line.startswith("Model:"):
            return line.partition(":")[2].strip()
    return folder.name
