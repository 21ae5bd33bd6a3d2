"""What a check is, and what it is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from dougong.accelerators.base import Accelerator
from dougong.conform.record import CheckOutcome, Grade, OperatorFacts, SegmentFacts

CPU = torch.device("cpu")


class Depart(Exception):
    """Raised by a check: what it has found wrong, in a sentence."""


class CannotTry(Exception):
    """Raised by a check: what it needs and this device or machine has not."""


@dataclass(frozen=True)
class DevicePair:
    """One of two processes with a device each. `native`: their group of the device's own library,
    None where there is none, for the reason `why_not`; `gloo`: the one that everybody has."""

    rank: int
    native: dist.ProcessGroup | None
    gloo: dist.ProcessGroup
    why_not: str = ""

    @property
    def other(self) -> int:
        return 1 - self.rank


@dataclass(frozen=True)
class Bed:
    """What checks are run on: an opened device. `folder`: for their files; `pair` None: the process
    is alone; `model`: a family or a folder to try, empty for none."""

    accelerator: Accelerator
    device: torch.device
    folder: Path
    pair: DevicePair | None = None
    model: str = ""

    @property
    def has_streams(self) -> bool:
        """Whether there is a device beside the processor."""
        return self.device.type != "cpu"

    def wait(self) -> None:
        """Until the device has computed what it was given."""
        if self.has_streams:
            torch.accelerator.synchronize()


@dataclass(frozen=True)
class Result:
    """What a check has found; nothing wrong where `words` is empty."""

    words: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    operator: OperatorFacts | None = None
    segments: tuple[SegmentFacts, ...] = ()


@dataclass(frozen=True)
class Check:
    """`judges`: the operator or method that an unsound outcome names. `num_processes`: 2 for what
    two devices do together."""

    name: str
    group: str
    judges: str
    run: Callable[[Bed], Result]
    num_processes: int = 1


def method(
    name: str, group: str, judges: str, run: Callable[[Bed], None], num_processes: int = 1
) -> Check:
    """A check that returns nothing, and raises `Depart` where something is wrong."""

    def tried(bed: Bed) -> Result:
        run(bed)
        return Result()

    return Check(name, group, judges, tried, num_processes)


def outcome_of(check: Check, bed: Bed) -> CheckOutcome:
    """Run a check; whatever it raises is an outcome."""
    begun = time.perf_counter()
    grade: Grade = "sound"
    try:
        result = check.run(bed)
        if result.words:
            grade = "unsound"
    except CannotTry as error:
        grade, result = "not run", Result(remarks=(str(error),))
    except Depart as error:
        grade, result = "unsound", Result((str(error),))
    except torch.OutOfMemoryError as error:  # no fault of what was to be tried
        grade, result = "not run", Result(remarks=(first_line(error),))
    except Exception as error:  # whatever a vendor's library raises is what was found
        grade, result = "unsound", Result((first_line(error),))
    return CheckOutcome(
        name=check.name,
        group=check.group,
        judges=check.judges,
        grade=grade,
        words=result.words,
        remarks=result.remarks,
        seconds=time.perf_counter() - begun,
        operator=result.operator,
        segments=result.segments,
    )


def first_line(error: BaseException) -> str:
    """An error in one line, with its class."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def require(holds: bool, words: str) -> None:
    """Raise `Depart` where it does not hold."""
    if not holds:
        raise Depart(words)


def need_streams(bed: Bed) -> None:
    """Raise `CannotTry` on a processor, which has no streams and no memory of its own."""
    if not bed.has_streams:
        raise CannotTry("a processor has no streams and no memory of its own")
