"""A worker's progress vector: a few numbers in memory shared with its agent.

Reporting costs no system call. The worker writes (sequence last), the agent reads ten times a
second; the agent writes `stop`, and the fault of a drill, and the worker reads them. Each number is
one aligned 8-byte store, hence never seen half; a set of ranks that takes several of them may be,
for an instant.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from dougong.job.drills.vocabulary import FAULTS

PHASES = ("start", "forward", "backward", "exchange", "update", "validate", "checkpoint", "idle")
_NUMBERS = {phase: number for number, phase in enumerate(PHASES)}
_SEQUENCE, _STEP, _PHASE, _OPERATION, _STOP, _FAULT, _FAULT_MS, _PULSE, _USED, _AWAITED = range(10)
_WORDS, _BITS = 1024, 62  # of the set of ranks; a number's sign is left alone
MOST_RANKS = _WORDS * _BITS
"""Workers of a run that a vector can tell apart."""
_TO_STOP, _TO_REST = 1, 2
_SIZE_BYTES = 8 * (_AWAITED + _WORDS)
_MS_OF_A_SECOND = 1000


def runs_of(ranks: int) -> list[tuple[int, int]]:
    """A set of ranks, given as bits, as its runs: first and last of each, in order."""
    runs, at = [], 0
    while ranks:
        gap = (ranks & -ranks).bit_length() - 1
        ranks >>= gap
        length = (~ranks & (ranks + 1)).bit_length() - 1
        ranks >>= length
        runs.append((at + gap, at + gap + length - 1))
        at += gap + length
    return runs


def ranks_of(runs: Any) -> int:
    """The reverse of `runs_of`. ValueError for what is no such list."""
    ranks, end = 0, -1
    try:
        for first, last in runs:
            if not end < first <= last < MOST_RANKS:
                raise ValueError(f"{first} to {last} is no run of ranks behind {end}")
            ranks |= ((1 << (last - first + 1)) - 1) << first
            end = last
    except TypeError as error:
        raise ValueError("a set of ranks is a list of runs, first and last rank of each") from error
    return ranks


Ranks = Annotated[
    int, BeforeValidator(ranks_of), PlainSerializer(runs_of, list[tuple[int, int]], "json")
]
"""A set of ranks, as bits. It travels as its runs: whoever waits for all others of ten thousand
would send three thousand digits ten times a second."""


@dataclass(frozen=True)
class WorkerProgress:
    """What a worker did last.

    `sequence` grows with every report; `operation` counts within the step. `pulse` grows as long as
    the process runs and its interpreter does, whatever its work is at; 0 where nobody counts.
    `awaited`: the ranks that it waits for, as bits; 0 while it waits for none.
    """

    sequence: int
    step: int
    phase: str
    operation: int
    pulse: int = 0
    awaited: Ranks = 0


@dataclass(frozen=True)
class WorkerSigns:
    """Of one process. `state`: as /proc has it (`R`, `S`, `D`, `T`; empty where it has none), for
    `state_s` seconds by now; `still_s`: so long its vector has not moved; `silent_s`: so long its
    pulse has not been felt. `ordered`: the fault of a drill that it has been told to do, and has
    not begun; empty: none."""

    state: str = ""
    state_s: float = 0.0
    still_s: float = 0.0
    silent_s: float = 0.0
    ordered: str = ""


@dataclass(frozen=True)
class ForkServerSigns:
    """Of an agent's fork server. `owes`: what it does not do that it should, in words, for
    `since_s` seconds by now; empty: nothing. `state`: of its process, as /proc has it."""

    owes: str = ""
    since_s: float = 0.0
    state: str = ""


@dataclass(frozen=True)
class OrderedFault:
    """What a drill has a worker do to itself. `for_s`: how long; None: as the vocabulary says."""

    name: str
    for_s: float | None = None


VECTOR_FILE = "dougong-progress"
"""How the file of a vector is named, among those that a process has open."""


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

    def wait_for(self, ranks: Iterable[int]) -> None:
        """Say for whom this worker waits from now on; nobody where there are none."""
        words = [0]
        for rank in ranks:
            word, bit = divmod(rank, _BITS)
            if word >= len(words):
                words += [0] * (word + 1 - len(words))
            words[word] |= 1 << bit
        view = self._view
        for word in range(len(words), view[_USED]):
            view[_AWAITED + word] = 0
        for word, ranks_of_word in enumerate(words):
            view[_AWAITED + word] = ranks_of_word
        view[_USED] = len(words)

    def beat(self, every_s: float) -> None:
        """Count for as long as this process lives, in a thread of its own: it stands still where
        the process is stopped, or one thread holds the interpreter."""

        def count() -> None:
            while True:
                self._view[_PULSE] += 1
                time.sleep(every_s)

        threading.Thread(target=count, name="dougong-pulse", daemon=True).start()

    def read(self) -> WorkerProgress:
        view = self._view
        awaited = 0
        for word in range(view[_USED]):
            awaited |= view[_AWAITED + word] << word * _BITS
        return WorkerProgress(
            view[_SEQUENCE],
            view[_STEP],
            PHASES[view[_PHASE]],
            view[_OPERATION],
            view[_PULSE],
            awaited,
        )

    def request_stop(self) -> None:
        self._view[_STOP] = _TO_STOP

    def request_rest(self) -> None:
        """Ask for the end of the generation, after a step, that the run may go on with others. A
        stop counts more."""
        if self._view[_STOP] == 0:
            self._view[_STOP] = _TO_REST

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
    def ordered(self) -> str:
        """The fault that was ordered and is not taken; empty: none."""
        number = self._view[_FAULT]
        return FAULTS[number - 1].name if number else ""

    @property
    def stop_requested(self) -> bool:
        return self._view[_STOP] == _TO_STOP

    @property
    def rest_requested(self) -> bool:
        return self._view[_STOP] == _TO_REST

    def forget_stop(self) -> None:
        """Another generation begins, which nobody has asked to end."""
        self._view[_STOP] = 0

    def close(self) -> None:
        self._view.release()
        self._map.close()
        os.close(self.fd)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(VECTOR_FILE, os.MFD_CLOEXEC)
    fd, path = tempfile.mkstemp(prefix=f"{VECTOR_FILE}-")
    os.unlink(path)
    return fd
