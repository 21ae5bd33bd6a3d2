"""From what was observed of workers to who failed first, in which way, and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dougong.control.processes import signal_name

FailureKind = Literal[
    "crash",
    "out_of_memory",
    "exception",
    "hang",
    "node_lost",
    "storage",
    "data",
    "model",
    "preemption",
]
CONSEQUENCE_S = 1.0
"""How long a failure that looks like the echo of another one waits for the other one to be heard
of."""

_ECHO = re.compile(
    r"connection (?:was )?(?:closed|reset|refused|aborted)|broken ?pipe|closed by peer|reset by peer"
    r"|recvbytes|sendbytes|socket ?timeout|timed out (?:waiting|after)|could not join generation|remote process exited"
    r"|failed to (?:recv|send)|econnreset|econnrefused|heartbeat monitor|nccl.*(?:remote|system) error",
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|std::bad_alloc", re.IGNORECASE
)
_STORAGE = re.compile(
    r"no space left|disk quota exceeded|read-only file system|input/output error", re.IGNORECASE
)
_OOM_CAUSE = "killed by the kernel, out of memory; lower batch.microbatch_size or the number of workers on this machine"


@dataclass(frozen=True)
class Fact:
    """One worker's failure as observed. `code`: exit status, negative for a signal, None while the
    process still runs.

    `error`: what the worker told of its exception (`type`, `bases`, `message`, `traceback`).
    `lost`: why its agent or node is gone. `text`: why it could not be started, or was given up.
    `drill`: it announced that it would die.
    """

    worker: str
    code: int | None = None
    error: dict[str, Any] | None = None
    oom: bool = False
    drill: bool = False
    lost: str | None = None
    hung: str | None = None
    text: str | None = None
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """Who failed, in which class, in one line; `detail` is a traceback or the last lines, if there
    are any."""

    worker: str
    kind: FailureKind
    cause: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.worker}: {self.kind.replace('_', ' ')}: {self.cause}"


def diagnose(fact: Fact) -> Diagnosis:
    """Name the class and the cause of one worker's failure."""
    if fact.lost is not None:
        return Diagnosis(fact.worker, "node_lost", fact.lost)
    if fact.hung is not None:
        return Diagnosis(fact.worker, "hang", fact.hung)
    if fact.error is not None:
        return _diagnose_error(fact.worker, fact.error)
    if fact.code is not None and fact.code < 0:
        return _diagnose_signal(fact, signal_name(-fact.code))
    return Diagnosis(
        fact.worker, "crash", fact.text or _exit_text(fact), "\n".join(fact.last_lines)
    )


def is_echo(fact: Fact) -> bool:
    """Whether this failure looks like the consequence of another worker's: a peer's connection
    broke."""
    if fact.error is not None:
        return bool(_ECHO.search(str(fact.error["message"])))
    aborted = fact.code == -6  # gloo and NCCL threads may abort the process when a peer is gone
    return aborted and any(_ECHO.search(line) for line in fact.last_lines)


def settled(facts: Sequence[Fact], waited_s: float, num_workers: int) -> bool:
    """Whether the first failure can be named: one that is no echo has been heard of, or no other is
    to be expected."""
    return (
        any(not is_echo(f) for f in facts) or waited_s >= CONSEQUENCE_S or len(facts) >= num_workers
    )


def first_failure(facts: Sequence[Fact]) -> tuple[Fact, tuple[Fact, ...]]:
    """The failure that began it, and the others. `facts` in the order observed, at least one."""
    first = next((f for f in facts if not is_echo(f)), facts[0])
    return first, tuple(f for f in facts if f is not first)


def _diagnose_error(worker: str, error: dict[str, Any]) -> Diagnosis:
    cause = f"{error['type']}: {error['message']}"
    return Diagnosis(worker, _error_kind(error), cause, str(error.get("traceback", "")))


def _error_kind(error: dict[str, Any]) -> FailureKind:
    bases, message = set(error["bases"]), str(error["message"])
    if "DataError" in bases:
        return "data"
    if bases & {"ModelError", "JobError", "PlanError"}:
        return "model"
    if bases & {"MemoryError", "OutOfMemoryError"} or _MEMORY.search(message):
        return "out_of_memory"
    if "CheckpointError" in bases or _STORAGE.search(message):
        return "storage"
    return "exception"


def _diagnose_signal(fact: Fact, name: str) -> Diagnosis:
    detail = "\n".join(fact.last_lines)
    if fact.drill:
        return Diagnosis(fact.worker, "crash", f"{name}, as its drill said", detail)
    if name == "SIGKILL" and fact.oom:
        return Diagnosis(fact.worker, "out_of_memory", _OOM_CAUSE, detail)
    if name == "SIGTERM":
        return Diagnosis(fact.worker, "preemption", "SIGTERM from outside the run", detail)
    if name == "SIGKILL":
        return Diagnosis(fact.worker, "crash", "SIGKILL from outside the run", detail)
    return Diagnosis(fact.worker, "crash", name + _last_line(fact), detail)


def _exit_text(fact: Fact) -> str:
    what = (
        "left before its work was done"
        if fact.code == 0
        else f"ended with exit status {fact.code} and no error"
    )
    return what + _last_line(fact)


def _last_line(fact: Fact) -> str:
    lines = [line for line in fact.last_lines if line.strip()]
    return f"; its last line: {lines[-1].strip()}" if lines else ""
