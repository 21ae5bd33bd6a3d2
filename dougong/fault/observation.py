"""A failure as it was observed: one class for each way in which it can become known. Each says
what failed (`culprit`) and which workers the run has lost by it (`workers`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dougong.control.worker_messages import WorkerRaised
from dougong.fault.culprit import Culprit

SIGABRT = 6


# A wait of ours ends in a PeerError, and torch.distributed's own errors have a class. What is left
# are the words of watchdogs: NCCL's ends its process, HCCL's error comes out of whatever the
# program does next, as a bare RuntimeError. Who says so has waited: another one is the cause.
_ECHOES = (
    # ProcessGroupNCCL, a wait that blocks.
    r"Work WorkNCCL\(.*\) timed out in blocking wait",
    # Its watchdog's thread, before it ends the process.
    r"Watchdog caught collective operation timeout",
    # TCPStore, through which communicators are made.
    r"wait timeout after \d+ms",
    # CANN's code for a notification that a peer has not sent.
    r"\bEI0002\b",
    r"notify wait .*times? out",
)
_ECHO = re.compile("|".join(_ECHOES), re.IGNORECASE)


@dataclass(frozen=True)
class _OfWorker:
    worker: str

    @property
    def culprit(self) -> Culprit:
        return Culprit("worker", self.worker)

    @property
    def workers(self) -> tuple[str, ...]:
        return (self.worker,)


@dataclass(frozen=True)
class Exited(_OfWorker):
    """The process ended before its work was done, and said nothing.

    `code`: exit status, negative for a signal. `oom`: the kernel killed something of its control
    group for memory meanwhile. `drill`: it had announced that it would die.
    """

    code: int
    oom: bool = False
    drill: bool = False
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raised(_OfWorker):
    """The worker ended with an exception and could still say which."""

    error: WorkerRaised


@dataclass(frozen=True)
class NotStarted(_OfWorker):
    """The process could not be begun."""

    reason: str


@dataclass(frozen=True)
class Hung(_OfWorker):
    """The process lives, and was given up. `evidence`: what was seen, each one fact in words;
    `latency_s`: since the first sign of it; so below."""

    reason: str
    evidence: tuple[str, ...] = ()
    latency_s: float | None = None


@dataclass(frozen=True)
class AgentLost:
    """An agent, its fork server or its node is gone, and its workers with it. `is_silent`: it has
    said nothing any more, rather than ended. `is_preempted`: somebody has taken its machine."""

    culprit: Culprit
    reason: str
    workers: tuple[str, ...]
    is_silent: bool = False
    is_preempted: bool = False
    evidence: tuple[str, ...] = ()
    latency_s: float | None = None


@dataclass(frozen=True)
class LinkCut:
    """Machines that live do not reach each other. `workers`: those on the side that is given up."""

    culprit: Culprit
    reason: str
    workers: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    latency_s: float | None = None


@dataclass(frozen=True)
class DeviceFailed:
    """A worker's device says that it has failed. `is_final`: nobody can use it any more."""

    worker: str
    culprit: Culprit
    reason: str
    evidence: tuple[str, ...] = ()
    latency_s: float | None = None
    is_final: bool = False

    @property
    def workers(self) -> tuple[str, ...]:
        return (self.worker,)


Failure = Exited | Raised | NotStarted | Hung | AgentLost | LinkCut | DeviceFailed
"""Any of them."""


def is_consequence(bases: Collection[str]) -> bool:
    """Whether an exception with these classes follows from another worker's failure: a `PeerError`
    says that a message to or from a peer was lost."""
    return "PeerError" in bases


def is_sentence(bases: Collection[str]) -> bool:
    """Whether an exception with these classes was raised on purpose, and says in its message all
    that a person needs."""
    return "DougongError" in bases and not is_consequence(bases)


def is_abort(failure: Failure) -> bool:
    """Whether the process aborted itself (SIGABRT).

    The threads of gloo and NCCL do that when a peer is gone, and so does a library that finds
    itself broken. Nothing but text would tell one from the other, so this is decided by company: an
    abort is a consequence if a failure that is none is observed soon.
    """
    return isinstance(failure, Exited) and failure.code == -SIGABRT and not failure.drill


def may_follow(failure: Failure) -> bool:
    """Whether this failure may be the consequence of another one, which is then waited for."""
    if isinstance(failure, Raised):
        return is_consequence(failure.error.bases) or has_waited_in_vain(failure.error)
    return is_abort(failure)


def has_waited_in_vain(error: WorkerRaised) -> bool:
    """Whether torch.distributed, or a vendor's library, says that a peer has not come. A library
    without a class for it raises a bare RuntimeError, whose words are all there is."""
    return "DistError" in error.bases or (error.type == "RuntimeError" and is_echo(error.message))


def is_echo(text: str) -> bool:
    """Whether a library says that it has waited for a peer to the end of its time."""
    return _ECHO.search(text) is not None


def echo_in(lines: Iterable[str]) -> str:
    """The first of a process's last lines that says so; empty where none does."""
    return next((line.strip() for line in lines if is_echo(line)), "")
