"""Walks through the programs of all workers as they would run, without time."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

from dougong.errors import PlanError
from dougong.parallel.schedules.operation import MessageKind, Operation, Program, send

SentMessage = tuple[str, Operation]
"""(worker, its send)."""
_MessageKey = tuple[MessageKind, int, int]
"""(kind, site, micro-batch)."""


def walk(programs: Sequence[Program]) -> Iterator[tuple[Program, Operation]]:
    """Every operation once it can happen: a send at once, a receive when all workers of the other
    side have sent.

    Operations of different workers come in one of the possible orders. Since a send never waits,
    all of them get equally far: if this one ends, each does. Raises `PlanError` when nothing can go
    on and something is left.
    """
    return itertools.chain.from_iterable(turns(programs))


def turns(programs: Sequence[Program]) -> Iterator[list[tuple[Program, Operation]]]:
    """The same in turns, in each of which everybody who can takes one operation."""
    left = {program.worker: list(reversed(program.operations)) for program in programs}
    posted = _Posted(programs)
    while any(left.values()):
        ready = [program for program in programs if posted.lets_go_on(left[program.worker])]
        if not ready:
            raise PlanError(_deadlock(programs, left, posted))
        turn = [(program, left[program.worker].pop()) for program in ready]
        for program, operation in turn:
            posted.note(program, operation)
        yield turn


class _Posted:
    """What has been sent so far."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._num_senders: dict[MessageKind, int] = {}
        for message in MessageKind:
            senders = {program.worker for program in programs if program.sends(message)}
            self._num_senders[message] = len(senders)
        # By whom, of each message: a receive looks at how many they are.
        self._workers: dict[_MessageKey, set[str]] = {}

    def note(self, program: Program, operation: Operation) -> None:
        message = operation.kind.sends
        if message is not None and program.sends(message):
            key = message, operation.site, operation.microbatch
            self._workers.setdefault(key, set()).add(program.worker)

    def lets_go_on(self, rest: Sequence[Operation]) -> bool:
        """Whether the last of these can happen; not, where there is none."""
        if not rest:
            return False
        message = rest[-1].kind.receives
        if message is None:
            return True
        return len(self.by(message, rest[-1])) == self._num_senders[message]

    def by(self, message: MessageKind, operation: Operation) -> Collection[str]:
        """Who has sent such a message for an operation's site and micro-batch."""
        return self._workers.get((message, operation.site, operation.microbatch), ())


def awaited(programs: Sequence[Program], operation: Operation) -> list[SentMessage]:
    """All sends that a receive waits for, one of each worker of the other side; none for other
    operations."""
    message = operation.kind.receives
    if message is None:
        return []
    sending = send(message, operation.site, operation.microbatch)
    return [(program.worker, sending) for program in programs if program.sends(message)]


def _missing(programs: Sequence[Program], operation: Operation, posted: _Posted) -> list[str]:
    """The workers that `operation` still waits for."""
    message = operation.kind.receives
    if message is None:
        return []
    there = posted.by(message, operation)
    return [p.worker for p in programs if p.sends(message) and p.worker not in there]


def _deadlock(
    programs: Sequence[Program], left: dict[str, list[Operation]], posted: _Posted
) -> str:
    stuck = []
    for program in programs:
        if rest := left[program.worker]:
            peers = ", ".join(_missing(programs, rest[-1], posted))
            stuck.append(
                f"{program.worker} at operation {len(program.operations) - len(rest)}, "
                f"{rest[-1]}, for {peers}"
            )
    return (
        f"the schedule has a deadlock; workers wait: {'; '.join(stuck)}. A send must stand before "
        "all that waits for what it brings about. Choose another schedule: `serial` runs on any "
        "workers"
    )
