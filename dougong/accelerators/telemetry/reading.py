"""What one device says of its health at one look, and how the devices of a machine are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Consequence = Literal["note", "program", "worker", "reset", "give_up"]
"""What follows from a code. note: nothing. program: whoever computed there did wrong, not the
device. worker: the worker cannot go on, the device can. reset: nobody can use it before it is
reset. give_up: it is to be repaired or replaced."""

Throttling = Literal["power", "thermal", "hardware"]
"""Why a device runs slower than it could: its limit of power, its temperature, or a circuit of the
board that slows it down in an emergency."""


@dataclass(frozen=True)
class DeviceFault:
    """A code that a driver has told. `code`: as its vendor writes it, such as `Xid 79`."""

    code: str
    meaning: str
    consequence: Consequence

    def __str__(self) -> str:
        return f"{self.code} ({self.meaning})" if self.meaning else self.code


@dataclass(frozen=True)
class DeviceReading:
    """One device. `number`: among those of its machine, as its vendor's tool counts them; `key`: a
    name that no other device has.

    `faults`: codes that have come since the reading before. `uncorrected`, `corrected`: errors of
    its memory since it is being read; `remapped_rows`: parts of its memory that have been replaced
    by others in its life; `awaits_reset`: some more are, at its next reset.
    """

    number: int
    key: str
    faults: tuple[DeviceFault, ...] = ()
    uncorrected: int = 0
    corrected: int = 0
    remapped_rows: int = 0
    awaits_reset: bool = False
    throttling: tuple[Throttling, ...] = ()
    temperature_c: int | None = None


@dataclass
class ErrorCounts:
    """Counters of a device that may have counted for years, from the first look on. A counter that
    has become smaller was set back, by a reset of the device."""

    uncorrected: int
    corrected: int

    def since(self, uncorrected: int, corrected: int) -> tuple[int, int]:
        """How many there are that are new."""
        self.uncorrected = min(self.uncorrected, uncorrected)
        self.corrected = min(self.corrected, corrected)
        return uncorrected - self.uncorrected, corrected - self.corrected


def fault_of(number: int, name: str, known: Mapping[int, DeviceFault]) -> DeviceFault:
    """The fault with this number; one that `known` does not hold is told and nothing more."""
    return known.get(number) or DeviceFault(f"{name} {number}", "", "note")


class Telemetry(ABC):
    """How the devices of one kind on this machine are read.

    A call into a driver may hang, or bring its process down. So whoever reads does nothing else
    (`launcher.agent.device_reader`), and another process holds it to a deadline.
    """

    @abstractmethod
    def read(self, wait_s: float) -> tuple[DeviceReading, ...]:
        """All devices of the machine, after `wait_s` at most, earlier where a fault comes.

        Raises DeviceError when the driver refuses.
        """

    def close(self) -> None:
        """Let the vendor's library go."""
        return
