"""From what was observed to who failed first, in which way, and why. Pure."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from dougong.control.processes import signal_name
from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import Deadlines
from dougong.fault.culprit import Culprit
from dougong.fault.observation import (
    AgentLost,
    DeviceFailed,
    Exited,
    Failure,
    Hung,
    LinkCut,
    NotStarted,
    Raised,
    echo_in,
    has_waited_in_vain,
    is_abort,
    may_follow,
)

FailureKind = Literal[
    "crash",
    "out_of_memory",
    "exception",
    "hang",
    "node_lost",
    "partition",
    "slow",
    "device",
    "corruption",
    "storage",
    "data",
    "model",
    "numerics",
    "preemption",
    "irreproducible",
]

_STORAGE_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_MODEL_ERRORS = {"ModelError", "JobError", "PlanError"}
_MEMORY_ERRORS = {"MemoryError", "OutOfMemoryError"}
_OUTSIDE = ("storage", "preemption", "device", "corruption")
_LINK_ERRORS = {"PeerError", "ConnectionError", "TimeoutError", "DistError"}
"""A connection that broke: the last is the base of torch.distributed's own."""

# C++ libraries (torch's allocator and its writer among them) raise a bare RuntimeError where
# Python has a class or a number, so that of a RuntimeError the words are all there is.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_STORAGE_WORDS = ("no space left", "quota exceeded", "read-only file system", "input/output error")

# CUDA's own words for what a program cannot do to a device.
_DEVICE_WORDS = ("uncorrectable ecc error", "uncorrectable nvlink error", "hardware stack error")

_ASSERTIONS = ("device-side assert",)

_OOM_CAUSE = "killed by the kernel, out of memory"


@dataclass(frozen=True)
class Origin:
    """What makes two failures the same one: the exception's class and where it was raised. A
    process that the kernel killed has raised nothing: its place is empty."""

    type: str
    place: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What failed first, in which class, in one line; `detail` is a traceback or the last lines, if
    there are any.

    `origin`: by which it is known when it comes again; None for what comes from outside a worker
    (signals, nodes, links, storage, preemption), which may come twice by chance. `evidence`: what
    was seen, each one fact in words; `latency_s`: from the first sign to this name, None where
    there was no sign before the failure itself. `is_final`: the culprit, a device, cannot be used
    any more.
    """

    culprit: Culprit
    kind: FailureKind
    cause: str
    detail: str = ""
    origin: Origin | None = None
    evidence: tuple[str, ...] = ()
    latency_s: float | None = None
    is_final: bool = False

    @property
    def worker(self) -> str:
        """The culprit's name where it is a worker; else empty."""
        return self.culprit.worker

    def __str__(self) -> str:
        return f"{self.culprit}: {self.kind.replace('_', ' ')}: {self.cause}"


def settled(
    failures: Sequence[Failure], waited_s: float, num_workers: int, deadlines: Deadlines
) -> bool:
    """Whether the first failure can be named: one that follows from no other has been observed, or
    no further one is to be expected.

    `waited_s`: since the first of `failures`, of which there is one at least.
    """
    # Of a death the system tells within milliseconds, while a peer's socket error may come first.
    num_failed = sum(len(failure.workers) for failure in failures)
    if waited_s >= deadlines.consequence_s or num_failed >= num_workers:
        return True
    return not all(may_follow(failure) for failure in failures)


def first_failure(failures: Sequence[Failure]) -> tuple[Failure, tuple[Failure, ...]]:
    """The failure that began it, and the others. `failures` in the order observed, at least one.

    A failure that cannot be a consequence comes first; without one, an abort, which only may be a
    consequence; a lost peer is named where there is nothing else. Where all have waited to the end
    of their time, it began with the one for whom they waited and whose time has not ended.
    """
    absent = _absent(failures)
    if absent is not None:
        return absent, tuple(failures)
    first = min(failures, key=_rank)  # the earliest of its rank: min keeps the order
    return first, tuple(failure for failure in failures if failure is not first)


def _absent(failures: Sequence[Failure]) -> Hung | None:
    """The worker for whom most have waited in vain, and that has waited for nobody itself."""
    waited_for: Counter[str] = Counter()
    late = set()
    for failure in failures:
        if not isinstance(failure, Raised) or not failure.error.waited_for:
            return None
        late.add(failure.worker)
        waited_for.update(failure.error.waited_for)
    absent = [name for name, _ in waited_for.most_common() if name not in late]
    if not absent:
        return None
    facts = []
    for failure in failures:
        if isinstance(failure, Raised):
            facts.append(f"{failure.worker}: {failure.error.message}")
    reason = "the others have waited for it in vain, and it has waited for nobody"
    return Hung(absent[0], reason, tuple(facts))


def _rank(failure: Failure) -> int:
    if not may_follow(failure):
        return 0
    return 1 if is_abort(failure) else 2


def diagnose(failure: Failure) -> Diagnosis:
    """Name the class and the cause of one failure."""
    match failure:
        case AgentLost() | LinkCut() | Hung():
            seen, latency_s = failure.evidence, failure.latency_s
            kind, cause = _lost_kind(failure), failure.reason
            return Diagnosis(failure.culprit, kind, cause, evidence=seen, latency_s=latency_s)
        case DeviceFailed(_, device, reason, seen, latency_s, is_final):
            return Diagnosis(device, "device", reason, "", None, seen, latency_s, is_final)
        case NotStarted():
            return Diagnosis(failure.culprit, "crash", failure.reason)
        case Raised():
            return _diagnose_error(failure)
        case Exited():
            return _diagnose_exit(failure)


def _lost_kind(failure: AgentLost | LinkCut | Hung) -> FailureKind:
    match failure:
        case LinkCut():
            return "partition"
        case AgentLost(is_preempted=True):
            return "preemption"
        case AgentLost(culprit) if culprit.kind == "node":
            return "node_lost"
        case AgentLost(is_silent=False):
            return "crash"
        case _:
            return "hang"


def mistake_in(bases: Collection[str]) -> FailureKind | None:
    """`data` or `model` where an exception of these classes says that the job, or a file that it
    names, is wrong: nothing but mending it helps. None for any other."""
    if "DataError" in bases:
        return "data"
    return "model" if _MODEL_ERRORS & set(bases) else None


def _diagnose_error(failure: Raised) -> Diagnosis:
    error = failure.error
    kind, cause = _error_kind(error), f"{error.type}: {error.message}"
    # What a program can do to a device it will do again: such a failure is known by its place.
    by_program = kind == "device" and not _has(error, _DEVICE_WORDS)
    from_outside = kind in _OUTSIDE and not by_program
    from_outside |= not _LINK_ERRORS.isdisjoint(error.bases) or has_waited_in_vain(error)
    origin = None if from_outside else Origin(error.type, error.place)
    return Diagnosis(_accused(failure), kind, cause, error.traceback, origin)


def _accused(failure: Raised) -> Culprit:
    """Who tells of an error, unless it says who else it was: of numbers that change on their way
    from one worker to another nobody knows at which of the two. Of a step that was computed wrongly
    the one who tells is not accused."""
    names = failure.error.accused
    if len(names) == 2:
        return Culprit("link", " and ".join(names))
    if not names and "CorruptionError" in failure.error.bases:
        return Culprit("workers", "")
    return Culprit("worker", names[0]) if names else failure.culprit


def _error_kind(error: WorkerRaised) -> FailureKind:
    bases = set(error.bases)
    mistake = mistake_in(bases)
    if mistake is not None:
        return mistake
    if "NumericsError" in bases:
        return "numerics"
    if "CorruptionError" in bases:
        return "corruption"
    if _is_of_device(error):
        return "device"
    if has_waited_in_vain(error):
        return "hang"
    if bases & _MEMORY_ERRORS or error.errno == errno.ENOMEM or _has(error, _MEMORY_WORDS):
        return "out_of_memory"
    if "CheckpointError" in bases or error.errno in _STORAGE_NUMBERS or _has(error, _STORAGE_WORDS):
        return "storage"
    return "exception"


def _is_of_device(error: WorkerRaised) -> bool:
    """Illegal accesses, uncorrectable memory errors, a device that has left the bus: torch has a
    class for what a device's runtime answers (`AcceleratorError`). Two of its answers are not of
    the device: that its memory is full, and that an assertion in a kernel has failed."""
    if _has(error, _DEVICE_WORDS):
        return True
    return "AcceleratorError" in error.bases and not _has(error, (*_MEMORY_WORDS, *_ASSERTIONS))


def _has(error: WorkerRaised, words: Sequence[str]) -> bool:
    """Whether a RuntimeError's text holds one of these phrases."""
    text = error.message.lower()
    return "RuntimeError" in error.bases and any(phrase in text for phrase in words)


def _diagnose_exit(failure: Exited) -> Diagnosis:
    detail = "\n".join(failure.last_lines)
    if failure.code >= 0:
        return Diagnosis(failure.culprit, "crash", _status_cause(failure), detail)
    name = signal_name(-failure.code)
    kind, cause = _signal_cause(failure, name)
    origin = Origin(name) if kind == "out_of_memory" else None
    return Diagnosis(failure.culprit, kind, cause, detail, origin)


def _signal_cause(failure: Exited, name: str) -> tuple[FailureKind, str]:
    if failure.drill:
        return "preemption" if name == "SIGTERM" else "crash", f"{name}, as its drill said"
    if name == "SIGKILL" and failure.oom:
        return "out_of_memory", _OOM_CAUSE
    if name == "SIGTERM":
        return "preemption", "SIGTERM from outside the run"
    if name == "SIGABRT" and echo_in(failure.last_lines):
        return "hang", f"its library's watchdog has ended it: {echo_in(failure.last_lines)}"
    if name == "SIGKILL":
        return "crash", "SIGKILL from outside the run"
    return "crash", name + _last_line(failure)


def _status_cause(failure: Exited) -> str:
    if failure.code == 0:
        return "left before its work was done" + _last_line(failure)
    return f"ended with exit status {failure.code} and no error" + _last_line(failure)


def _last_line(failure: Exited) -> str:
    lines = [line.strip() for line in failure.last_lines if line.strip()]
    return f"; its last line: {lines[-1]}" if lines else ""
