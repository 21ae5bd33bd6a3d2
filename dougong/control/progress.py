"""A worker's progress vector: numbers in memory shared with its agent.

Reporting costs no system call. The worker writes (sequence last), the agent reads ten times a
second; the agent writes `stop`, and the fault of a drill, and the worker reads them. Each number is
one aligned 8-byte store, hence never seen half.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass

from dougong.job.drills.vocabulary import FAULTS

PHASES = ("start", "forward", "backward", "exchange", "update", "validate", "checkpoint", "idle")
_NUMBERS = {phase: number for number, phase in enumerate(PHASES)}
_SEQUENCE, _STEP, _PHASE, _OPERATION, _STOP, _FAULT, _FAULT_MS = range(7)
_SIZE_BYTES = 8 * 8
_MS_OF_A_SECOND = 1000


@dataclass(frozen=True)
class WorkerProgress:
    """What a worker did last.

    `sequence` grows with every report; `operation` counts within the step.
    """

    sequence: int
    step: int
    phase: str
    operation: int


@dataclass(frozen=True)
class OrderedFault:
    """What a drill has a worker do to itself. `for_s`: how long; None: as the vocabulary says."""

    name: str
    for_s: float | None = None


class ProgressVector:
    """The shared vector, over an open file descriptor that a forked child inherits.

    The vector owns the descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _SIZE_BYTES)
        self._view = memoryview(self._map).cast("q")

    @classmethod
    def create(cls) -> ProgressVector:
        """A fresh vector, all zeros."""
        fd = _anonymous_file()
        os.ftruncate(fd, _SIZE_BYTES)
        return cls(fd)

    def write(self, step: int, phase: str, operation: int) -> None:
        """Report. KeyError for a phase that is not in PHASES."""
        view = self._view
        view[_STEP], view[_PHASE], view[_OPERATION] = step, _NUMBERS[phase], operation
        # Last: a reader that sees a new sequence sees what belongs to it.
        view[_SEQUENCE] += 1

    def read(self) -> WorkerProgress:
        view = self._view
        phase = PHASES[view[_PHASE]]
        return WorkerProgress(view[_SEQUENCE], view[_STEP], phase, view[_OPERATION])

    def request_stop(self) -> None:
        self._view[_STOP] = 1

    def order_fault(self, fault: OrderedFault) -> None:
        """Have the worker do something to itself as its next step begins."""
        self._view[_FAULT_MS] = round((fault.for_s or 0.0) * _MS_OF_A_SECOND)
        # Last: a reader that sees which fault sees how long, too.
        self._view[_FAULT] = 1 + [known.name for known in FAULTS].index(fault.name)

    def take_fault(self) -> OrderedFault | None:
        """What was ordered, once."""
        number, self._view[_FAULT] = self._view[_FAULT], 0
        if number == 0:
            return None
        for_s = self._view[_FAULT_MS] / _MS_OF_A_SECOND
        return OrderedFault(FAULTS[number - 1].name, for_s or None)

    @property
    def stop_requested(self) -> bool:
        return bool(self._view[_STOP])

    def forget_stop(self) -> None:
        """Another generation begins, which nobody has asked to stop."""
        self._view[_STOP] = 0

    def close(self) -> None:
        self._view.release()
        self._map.close()
        os.close(self.fd)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dougong-progress", os.MFD_CLOEXEC)
    fd, path = tempfile.mkstemp(prefix="dougong-progress-")
    os.unlink(path)
    return fd
