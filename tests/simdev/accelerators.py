"""Two vendors of simulated devices, and Ascend's, as their packages would offer them to dougong.

`offer` installs them as anybody's accelerator is installed: every process that finds the folder knows them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.npu import Npu

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]
_NPU = Path(__file__).with_name("npu")


class SimulatedDevice(GenericAccelerator):
    """A vendor's row: facts, and what its devices are called, since they have no files."""

    plugin = "tests.simdev.plugin"
    tool = "the tests"
    fused_attention = False
    _num_devices: ClassVar[int] = 2

    def names(self) -> list[str]:
        return [f"{self.name}{number}" for number in range(self._num_devices)]

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        count = self.device_count(os.environ.get(self.visible_devices_variable or ""))
        settings = {"SIMDEV_VENDOR": self.name, "SIMDEV_LIBRARY": self.backend, "SIMDEV_DEVICES": str(count)}
        return {**super().worker_environment(threads, deterministic), **settings}


class SimA(SimulatedDevice):
    """As exact as a processor."""

    name = device_type = "sima"
    title = "simulated devices of vendor A"
    resource = "SIMA"
    backend = "simaccl"
    visible_devices_variable = "SIMA_VISIBLE_DEVICES"


class SimB(SimulatedDevice):
    """Its matrix units read ten bits of a mantissa."""

    name = device_type = "simb"
    title = "simulated devices of vendor B"
    resource = "SIMB"
    backend = "simbccl"
    visible_devices_variable = "SIMB_VISIBLE_DEVICES"
    environment: ClassVar = {"SIMDEV_ROUNDING": "tf32"}


class SimNpu(Npu):
    """Ascend's own file, whose plug-in is the one in `npu/`: its code runs with real numbers."""

    name = "simnpu"
    resource = "SIMNPU"
    fused_attention = False
    _num_devices: ClassVar[int] = 2

    def names(self) -> list[str]:
        return [f"simnpu{number}" for number in range(self._num_devices)]

    def worker_environment(self, threads: int, deterministic: bool = True) -> dict[str, str]:
        variables = super().worker_environment(threads, deterministic)
        return variables | {"SIMDEV_DEVICES": str(self._num_devices)}

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
