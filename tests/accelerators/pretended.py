"""A kind of device that computes as a processor does, and whose devices say what a test has them say.

`offer` installs it as a package of its own, as anybody's accelerator is: every process that finds the folder knows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dougong.accelerators.telemetry.reading import DeviceFault

NAME = "pretended"
_SOURCE = """
import json
import time
from pathlib import Path

from dougong.accelerators.base import visible_count
from dougong.accelerators.cpu import Cpu
from dougong.accelerators.telemetry.reading import DeviceFault, DeviceReading, Telemetry
from dougong.errors import DeviceError

STATE = Path({state!r})
COUNT = {count}


class Pretended(Cpu):
    name = "pretended"
    resource = "pretended"
    visible_devices_variable = "PRETENDED_VISIBLE_DEVICES"
    shares_machine = False
    tells_health = True

    def device_count(self, visible=None):
        return visible_count(COUNT, visible)

    def device_keys(self):
        return tuple(f"PRE-{{number}}" for number in range(COUNT))

    def telemetry(self):
        if (STATE / "refuses").exists():
            raise DeviceError("no driver is there")
        return Told()


class Told(Telemetry):
    def __init__(self):
        self.seen = set()

    def read(self, wait_s):
        time.sleep(min(wait_s, 0.1))
        while (STATE / "hangs").exists():
            time.sleep(0.05)
        if (STATE / "dies").exists():
            raise SystemExit(3)
        faults = {{}}
        for path in sorted(STATE.glob("*.fault")):
            if path.name not in self.seen:
                self.seen.add(path.name)
                number, fault = json.loads(path.read_text())
                faults[number] = (*faults.get(number, ()), DeviceFault(*fault))
        return tuple(DeviceReading(n, f"PRE-{{n}}", faults.get(n, ()), temperature_c=50) for n in range(COUNT))
"""


@dataclass(frozen=True)
class PretendedDevices:
    """What a test has them say. `folder`: where the package is installed."""

    folder: Path
    state: Path

    def say(self, number: int, fault: DeviceFault) -> None:
        """This device tells of a fault, once."""
        text = json.dumps([number, [fault.code, fault.meaning, fault.consequence]])
        place = self.state / f"{len(list(self.state.iterdir()))}"
        place.write_text(text)
        place.rename(place.with_suffix(".fault"))

    def repair(self) -> None:
        """Nothing of what was told is so any more."""
        for told in self.state.glob("*.fault"):
            told.unlink()

    def mark(self, *names: str) -> None:
        """`hangs`, `dies`, `refuses`: what the driver does from now on."""
        self._each(names, lambda path: path.touch())

    def mend(self, *names: str) -> None:
        """And no more."""
        self._each(names, lambda path: path.unlink())

    def _each(self, names: Iterable[str], act: object) -> None:
        assert callable(act)
        for name in names:
            act(self.state / name)


def offer(folder: Path, count: int) -> PretendedDevices:
    """Machines with so many of them, for whoever looks for packages in `folder`."""
    state, package = folder / "state", folder / "pretended_devices"
    metadata = folder / "pretended_devices-1.dist-info"
    for made in (state, package, metadata):
        made.mkdir(parents=True)
    (package / "__init__.py").write_text(_SOURCE.format(state=str(state), count=count))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended-devices\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[dougong.accelerators]\n{NAME} = pretended_devices:Pretended\n")
    return PretendedDevices(folder, state)
