"""A worker's failure as it was observed: one class for each way in which it can become known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dougong.control.worker_messages import WorkerRaised

SIGABRT = 6


@dataclass(frozen=True)
class Exited:
    """The process ended before its work was done, and said nothing.

    `code`: exit status, negative for a signal. `oom`: the kernel killed something of its control
    group for memory meanwhile. `drill`: it had announced that it would die.
    """

    worker: str
    code: int
    oom: bool = False
    drill: bool = False
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raised:
    """The worker ended with an exception and could still say which."""

    worker: str
    error: WorkerRaised


@dataclass(frozen=True)
class NotStarted:
    """The process could not be begun."""

    worker: str
    reason: str


@dataclass(frozen=True)
class AgentLost:
    """The worker's agent is gone, and its processes with it."""

    worker: str
    reason: str


@dataclass(frozen=True)
class Hung:
    """The process lives, and was given up."""

    worker: str
    reason: str


Failure = Exited | Raised | NotStarted | AgentLost | Hung
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
        return is_consequence(failure.error.bases)
    return is_abort(failure)
