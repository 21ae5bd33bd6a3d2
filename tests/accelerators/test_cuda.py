"""The cuda accelerator: without a GPU its errors, with one (`-m gpu`) the device itself."""

import platform
import sys
import types
from pathlib import Path

import pytest
import torch
from dougong.accelerators.cuda import Cuda, Rocm
from dougong.errors import DeviceError


def test_facts() -> None:
    cuda = Cuda()
    assert (cuda.name, cuda.resource, cuda.backend) == ("cuda", "GPU", "nccl")
    environment = cuda.worker_environment(2)
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert environment["OMP_NUM_THREADS"] == "2"
    free = cuda.worker_environment(2, deterministic=False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in free and free["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_without_triton_it_offers_no_fused_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(Cuda().expert_operators()) == []


@pytest.mark.gpu
def test_with_triton_it_offers_the_grouped_kernels() -> None:
    from dougong.ops.experts.triton_swiglu import GroupedSwiGLU

    assert [type(op) for op in Cuda().expert_operators()] == [GroupedSwiGLU]


def test_count_by_nvml_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = RuntimeError  # type: ignore[attr-defined]
    nvml.nvmlInit = lambda: calls.append("init")  # type: ignore[attr-defined]
    nvml.nvmlShutdown = lambda: calls.append("shutdown")  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetCount = lambda: 3  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=80 + handle)  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetName = lambda handle: f"H{handle}"  # type: ignore[attr-defined]
    nvml.nvmlSystemGetDriverVersion = lambda: "600.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert Cuda().device_count() == 3
    assert Cuda().device_count("1,2") == 2
    assert calls == ["init", "shutdown"] * 2
    assert Cuda().memory_bytes() == 82  # the largest: what it cannot hold, none can
    assert Cuda().describe() == {"name": "H0, H1, H2", "driver": "600.1"}


def pretend(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """That torch knows so many GPUs."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_amd_s_gpus_are_torch_s_cuda_under_rocm_s_names(monkeypatch: pytest.MonkeyPatch) -> None:
    rocm = Rocm()
    assert (rocm.device_type, rocm.backend, rocm.resource) == ("cuda", "nccl", "GPU")
    assert rocm.visible_devices_variable == "HIP_VISIBLE_DEVICES"
    assert "CUDA_DEVICE_ORDER" not in rocm.worker_environment(1) and not list(rocm.expert_operators())
    monkeypatch.setattr(torch.version, "hip", "7.0")
    pretend(monkeypatch, 1)
    with pytest.raises(DeviceError, match="is not built for NVIDIA GPUs"):
        Cuda().open(0)
    with pytest.raises(DeviceError, match="device 1 is asked for, torch sees 1.*HIP_VISIBLE_DEVICES.*rocm-smi"):
        rocm.open(1)


def test_amd_s_gpus_are_counted_where_its_driver_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node, count in enumerate((0, 304, 304)):
        folder = tmp_path / str(node)
        folder.mkdir()
        (folder / "properties").write_text(f"cpu_cores_count 0\nsimd_count {count}\n")
    monkeypatch.setattr("dougong.accelerators.cuda.KFD", tmp_path)
    assert Rocm().names() == ["1", "2"] and Rocm().device_count("1") == 1


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (None, "is not built for NVIDIA GPUs.*install a CUDA build"),
        ("13.0", "device 1 is asked for, torch sees 1.*islands.workers"),
    ],
)
def test_open_says_what_is_missing(built: str | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    pretend(monkeypatch, 1)
    with pytest.raises(DeviceError, match=message) as error:
        Cuda().open(1)
    assert f"{platform.node()} has" in str(error.value)


def test_a_device_that_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(index: int) -> None:
        raise RuntimeError(f"CUDA error: device {index} is busy")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    pretend(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "set_device", fail)
    with pytest.raises(DeviceError, match="device 0 does not open .*is busy.*nvidia-smi"):
        Cuda().open(0)


@pytest.mark.gpu
def test_open_a_real_gpu() -> None:
    cuda = Cuda()
    count = cuda.device_count()
    assert count is not None and count >= 1
    device = cuda.open(0)
    ones_MM = torch.ones(256, 256, device=device)
    product_MM = ones_MM @ ones_MM
    assert float(product_MM[0, 0]) == 256
    assert cuda.describe()["name"] != "none"
