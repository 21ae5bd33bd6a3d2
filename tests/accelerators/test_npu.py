"""The npu accelerator on a machine without one: its errors, and the order of its calls into torch_npu.

Against torch_npu's own package: tests/accelerators/ascend. With real numbers: test_simulated.py.
"""

import platform
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from dougong.accelerators import generic
from dougong.accelerators.npu import Npu
from dougong.errors import DeviceError


def test_facts() -> None:
    npu = Npu()
    assert (npu.name, npu.resource, npu.backend) == ("npu", "NPU", "hccl")
    assert npu.worker_environment(1)["HCCL_DETERMINISTIC"] == "true"
    free = npu.worker_environment(1, deterministic=False)
    assert "HCCL_DETERMINISTIC" not in free and free["TORCH_NPU_FALLBACK_CPU_DISABLE"] == "1"


def test_without_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    host = re.escape(platform.node())
    with pytest.raises(DeviceError, match=rf"torch_npu does not load.*{host} has.*pip install 'dougong\[npu\]'"):
        Npu().open(0)
    assert "torch-npu is not installed; install Ascend's driver" in Npu().missing()


def test_without_the_plugin_it_offers_no_fused_experts() -> None:
    """With it: tests/ops/experts/test_ascend_swiglu.py."""
    assert list(Npu().expert_operators()) == []


def test_count_by_device_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("davinci_manager", *(f"davinci{index}" for index in range(8))):
        (tmp_path / name).touch()
    monkeypatch.setattr(Npu, "device_files", f"{tmp_path}/{Path(Npu.device_files).name}")
    assert Npu().device_count() == 8
    assert Npu().device_count("4,5") == 2
    assert Npu().describe()["name"].startswith("davinci0, davinci1, ")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for torch_npu that writes down what it is asked; the only way to see the order without an NPU."""
    made: list[str] = []
    module = types.SimpleNamespace(
        device_count=lambda: 2,
        set_device=lambda index: made.append(f"set_device {index}"),
        matmul=types.SimpleNamespace(allow_hf32=True),
        conv=types.SimpleNamespace(allow_hf32=True),
    )
    monkeypatch.setitem(sys.modules, "torch_npu", types.ModuleType("torch_npu"))
    monkeypatch.setattr(torch, "npu", module, raising=False)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: types.SimpleNamespace(type="npu"))
    monkeypatch.setattr(generic, "switch_on_determinism", lambda: made.append("determinism"))
    monkeypatch.setattr(torch, "device", lambda *of: made.append(f"device {of}"))
    return made


def test_open_sets_the_device_first(calls: list[str]) -> None:
    Npu().open(1)
    assert calls == ["set_device 1", "determinism", "device ('npu', 1)"]
    npu = torch.get_device_module("npu")
    assert not npu.matmul.allow_hf32 and not npu.conv.allow_hf32


def test_more_workers_than_devices(calls: list[str]) -> None:
    with pytest.raises(DeviceError, match="device 2 is asked for, torch sees 2.*lower islands.workers.*npu-smi info"):
        Npu().open(2)
    assert calls == []
