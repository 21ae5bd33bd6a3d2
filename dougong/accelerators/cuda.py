"""GPUs that torch calls `cuda`: NVIDIA's, and AMD's by ROCm."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dougong.accelerators.base import HOST_VARIABLES
from dougong.accelerators.facts import Default, PeakRates, Refused, Standing
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.telemetry.nvidia import NvidiaTelemetry
from dougong.errors import DeviceError

if TYPE_CHECKING:
    import torch.distributed as dist

    from dougong.accelerators.telemetry.reading import Telemetry
    from dougong.ops.experts.base import ExpertOp

KFD = Path("/sys/class/kfd/kfd/topology/nodes")
"""Where AMD's driver lists processors and GPUs, a folder each."""
_HOPPER = {"bfloat16": 989.4e12, "float16": 989.4e12, "float32": 66.9e12}


class Cuda(GenericAccelerator):
    """One worker per GPU of NVIDIA's."""

    name = "cuda"
    title = "NVIDIA GPUs"
    standing: ClassVar[Standing] = "run here"
    also_called = ("gpu", "nvidia")
    device_type = "cuda"
    build = "cuda"
    build_tag = r"(cu\d+)?"
    install = (
        "install a CUDA build of the same version (pip install torch from an index of CUDA "
        "builds), or use accelerator: cpu"
    )
    backend = "nccl"
    resource = "GPU"
    visible_devices_variable = "CUDA_VISIBLE_DEVICES"
    interface_variable = "NCCL_SOCKET_IFNAME"
    tool = "nvidia-smi"
    tells_health = True
    fused_operators: ClassVar[tuple[str, ...]] = ("experts.triton_swiglu",)
    environment: ClassVar = {
        # The order of nvidia-smi, so that a device's number means the same to everybody.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # To ask whether there are devices opens none, so that a fork server's children can.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        # A worker outlives the loss of a peer (`abort`). By default torch's own watchdog would end
        # the process then.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    }
    deterministic_environment: ClassVar = {
        # cuBLAS gives the same bits in every run only with a workspace of fixed size.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # The package flash_attn adds by atomics in its backward unless it is told not to.
        "FLASH_ATTENTION_DETERMINISTIC": "1",
    }
    exact_switches: ClassVar = {
        "backends.cudnn.allow_tf32": False,
        "backends.cudnn.benchmark": False,
        "backends.cuda.matmul.allow_bf16_reduced_precision_reduction": False,
    }
    arithmetic_variables: ClassVar[tuple[str, ...]] = (
        *HOST_VARIABLES,
        "CUBLAS_",
        "CUBLASLT_",
        "CUDNN_",
        "FLASH_ATTENTION_",
        "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32",
        "NCCL_ALGO",
        "NCCL_PROTO",
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "TRITON_",
    )
    agreed_variables: ClassVar[tuple[str, ...]] = ("NCCL_ALGO", "NCCL_PROTO")
    defaults: ClassVar[tuple[Default, ...]] = (
        Default("PYTORCH_ALLOC_CONF", "expandable_segments:True", ("PYTORCH_CUDA_ALLOC_CONF",)),
        # Kernels of several communicators then start on the device in the order of their calls.
        Default("NCCL_LAUNCH_ORDER_IMPLICIT", "1"),
        Default("TORCH_FR_BUFFER_SIZE", "2000", ("TORCH_NCCL_TRACE_BUFFER_SIZE",)),
    )
    refused: ClassVar[tuple[Refused, ...]] = (
        Refused(
            "TRITON_INTERPRET", "1", "fused experts would be computed on the host, by other sums"
        ),
        Refused("NVIDIA_TF32_OVERRIDE", "1", "float32 products would read ten bits of a mantissa"),
        Refused(
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
            "1",
            "float32 products would read ten bits of a mantissa",
        ),
    )
    peak_rates: ClassVar[tuple[PeakRates, ...]] = (
        PeakRates("H100", _HOPPER, "NVIDIA's H100 data sheet, SXM"),
        PeakRates("H200", _HOPPER, "NVIDIA's H200 data sheet, SXM"),
        PeakRates(
            "A100",
            {"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12},
            "NVIDIA's A100 data sheet",
        ),
    )

    def names(self) -> list[str]:
        return _gpus()

    def driver(self) -> str:
        return _driver()

    def make_exact(self) -> None:
        import torch

        super().make_exact()
        torch.set_float32_matmul_precision("highest")
        # cuDNN's attention has no backward of fixed bits; flash attention, which comes next, has.
        torch.backends.cuda.enable_cudnn_sdp(False)

    def memory_bytes(self) -> int | None:
        return max(_memory_sizes(), default=None)

    def telemetry(self) -> Telemetry | None:
        nvml = _nvml()
        if nvml is None:
            raise DeviceError(
                "NVML does not load, so that nothing tells how the GPUs are: pip install "
                "'dougong[cuda]', and see nvidia-smi"
            )
        return NvidiaTelemetry(nvml)

    def device_keys(self) -> tuple[str, ...]:
        return tuple(_uuids())

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


class Rocm(Cuda):
    """One worker per GPU of AMD's: torch calls them `cuda`, and RCCL `nccl`."""

    name = "rocm"
    title = "AMD GPUs"
    standing = "from documents"
    also_called = ("amd", "hip")
    build = "hip"
    build_tag = "rocm.*"
    install = "install a ROCm build of the same version, or use accelerator: cpu"
    visible_devices_variable = "HIP_VISIBLE_DEVICES"
    tool = "rocm-smi or amd-smi"
    tells_health = False
    fused_operators = ()
    environment: ClassVar = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}
    deterministic_environment: ClassVar = {}
    arithmetic_variables = (
        *Cuda.arithmetic_variables,
        "HIPBLASLT_",
        "ROCBLAS_",
        "MIOPEN_",
        "TORCH_BLAS_",
    )
    defaults = (Default("TORCH_FR_BUFFER_SIZE", "2000", ("TORCH_NCCL_TRACE_BUFFER_SIZE",)),)
    refused = (Cuda.refused[0],)
    peak_rates = ()

    def names(self) -> list[str]:
        return [folder.name for folder in sorted(KFD.glob("*")) if _is_gpu(folder)]

    def driver(self) -> str:
        return _text_of(Path("/sys/module/amdgpu/version"))

    def memory_bytes(self) -> int | None:
        return None

    def device_keys(self) -> tuple[str, ...]:
        return ()

    def expert_operators(self) -> Iterator[ExpertOp]:
        yield from ()  # nobody has tried Triton's form there


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


def _is_gpu(folder: Path) -> bool:
    """Whether a node has units that compute in vectors: a processor has none."""
    for line in _text_of(folder / "properties").splitlines():
        key, _, value = line.partition(" ")
        if key == "simd_count":
            return value.strip() not in ("", "0")
    return False


def _text_of(file: Path) -> str:
    """Empty for one that is not there or may not be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
