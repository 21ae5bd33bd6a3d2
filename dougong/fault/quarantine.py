"""Devices that a run uses no more. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class QuarantinedDevice:
    """One of them. `accelerator`: its kind, `cuda`; `key`: its name among the devices of `node`,
    which is a machine's name; `why`: in words."""

    accelerator: str
    key: str
    node: str
    why: str

    def __str__(self) -> str:
        return f"{self.key} on {self.node} ({self.why})"


@dataclass
class Quarantine:
    """All of them, by what makes them the same."""

    _devices: dict[tuple[str, str], QuarantinedDevice]

    @staticmethod
    def of(devices: Iterable[QuarantinedDevice], lifted: Collection[str] = ()) -> Quarantine:
        """`lifted`: keys of devices that are used again."""
        kept = [device for device in devices if device.key not in lifted]
        return Quarantine({(device.node, device.key): device for device in kept})

    def add(self, device: QuarantinedDevice) -> None:
        """From now on it is not used."""
        self._devices[device.node, device.key] = device

    @property
    def all(self) -> tuple[QuarantinedDevice, ...]:
        return tuple(self._devices.values())

    def on(self, node: str, accelerator: str) -> tuple[str, ...]:
        """The keys of those of this kind on a machine."""
        found = [one for one in self.all if (one.node, one.accelerator) == (node, accelerator)]
        return tuple(sorted(one.key for one in found))
