"""Two vendors of simulated devices, and Ascend's, as their packages would offer them to dougong.

`offer` installs them as anybody's accelerator is installed: every process that finds the folder knows them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dougong.accelerators.base import Accelerator, switch_on_determinism, thread_environment, visible_count
from dougong.accelerators.npu import Npu
from dougong.errors import DeviceError

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]
_NPU = Path(__file__).with_name("npu")


class SimulatedDevice(Accelerator):
    """`settings`: of the simulation, as `simdev.h` names them."""

    settings: ClassVar[dict[str, str]] = {}
    num_devices: ClassVar[int] = 2

    def device_count(self, visible: str | None = None) -> int | None:
        return visible_count(self.num_devices, visible)

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        visible = self.visible_devices_variable or ""
        count = self.device_count(os.environ.get(visible))
        return thread_environment(threads) | {
            "SIMDEV_VENDOR": self.name,
            "SIMDEV_LIBRARY": self.backend,
            "SIMDEV_DEVICES": str(count),
            **self.settings,
        }

    def open(self, index: int, deterministic: bool = True) -> torch.device:
        import torch
        from tests.simdev import plugin

        if self.name != plugin.VENDOR:
            raise DeviceError(f"accelerator {self.name}: this process has opened a device of {plugin.VENDOR}")
        if index >= plugin.native.device_count():
            raise DeviceError(f"accelerator {self.name}: no device {index}")
        torch.accelerator.set_device_index(index)
        if deterministic:
            switch_on_determinism()
        return torch.device(self.name, index)

    def describe(self) -> dict[str, str]:
        return {"name": f"{self.num_devices} simulated devices"}


class SimA(SimulatedDevice):
    """As exact as a processor."""

    name = "sima"
    resource = "SIMA"
    backend = "simaccl"
    visible_devices_variable = "SIMA_VISIBLE_DEVICES"


class SimB(SimulatedDevice):
    """Its matrix units read ten bits of a mantissa."""

    name = "simb"
    resource = "SIMB"
    backend = "simbccl"
    visible_devices_variable = "SIMB_VISIBLE_DEVICES"
    settings: ClassVar = {"SIMDEV_ROUNDING": "tf32"}


class SimNpu(Npu):
    """Ascend's own file, whose plug-in is the one in `npu/`: its code runs with real numbers."""

    name = "simnpu"
    resource = "SIMNPU"
    num_devices: ClassVar[int] = 2

    def device_count(self, visible: str | None = None) -> int | None:
        return visible_count(self.num_devices, visible)

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        variables = super().worker_environment(threads, deterministic)
        return variables | {"SIMDEV_DEVICES": str(self.num_devices)}

    def open(self, index: int, deterministic: bool = True) -> torch.device:
        sys.path.insert(0, str(_NPU))  # nobody else finds this torch_npu
        return super().open(index, deterministic)


def offer(folder: Path, with_bridge: bool = False) -> dict[str, str]:
    """Install all there; the environment for processes that are to find them. `with_bridge`: a bridge between the two
    vendors too, which jobs then take by themselves."""
    info = folder / "simulated_devices-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: simulated-devices\nVersion: 1.0\n")
    here = "tests.simdev.accelerators"
    lines = ["[dougong.accelerators]", f"sima = {here}:SimA", f"simb = {here}:SimB", f"simnpu = {here}:SimNpu"]
    lines += ["[dougong.bridges]", "direct = tests.simdev.direct:DirectBridge"] if with_bridge else []
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
