"""Walks through the programs of all workers as they would run, without time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dougong.errors import PlanError
from dougong.parallel.schedules.operation import Operation, Program, send

SentMessage = tuple[str, Operation]
"""(worker, its send)."""


def walk(programs: Sequence[Program]) -> Iterator[tuple[Program, Operation]]:
    """Every operation once it can happen: a send at once, a receive when all workers of the other
    side have sent.

    Operations of different workers come in one of the possible orders. Since a send never waits,
    all of them get equally far: if this one ends, each does. Raises `PlanError` when nothing can go
    on and something is left.
    """
    left = {program.worker: list(reversed(program.operations)) for program in programs}
    sent: set[SentMessage] = set()
    while any(left.values()):
        ready = _ready(programs, left, sent)
        if not ready:
            raise PlanError(_deadlock(programs, left, sent))
        for program in ready:
            operation = left[program.worker].pop()
            if operation.kind.sends is not None:
                sent.add((program.worker, operation))
            yield program, operation


def _ready(
    programs: Sequence[Program], left: dict[str, list[Operation]], sent: set[SentMessage]
) -> list[Program]:
    """The programs whose next operation can happen."""
    ready = []
    for program in programs:
        rest = left[program.worker]
        if rest and not _missing(programs, rest[-1], sent):
            ready.append(program)
    return ready


def awaited(programs: Sequence[Program], operation: Operation) -> list[SentMessage]:
    """All sends that a receive waits for, one of each worker of the other side; none for other
    operations."""
    message = operation.kind.receives
    if message is None:
        return []
    sending = send(message, operation.site, operation.microbatch)
    return [(program.worker, sending) for program in programs if program.sends(message)]


def _missing(
    programs: Sequence[Program], operation: Operation, sent: set[SentMessage]
) -> list[str]:
    """The workers that `operation` still waits for."""
    return [message[0] for message in awaited(programs, operation) if message not in sent]


def _deadlock(
    programs: Sequence[Program], left: dict[str, list[Operation]], sent: set[SentMessage]
) -> str:
    stuck = []
    for program in programs:
        if rest := left[program.worker]:
            peers = ", ".join(_missing(programs, rest[-1], sent))
            stuck.append(
                f"{program.worker} at operation {len(program.operations) - len(rest)}, "
                f"{rest[-1]}, for {peers}"
            )
    return (
        f"the schedule has a deadlock; workers wait: {'; '.join(stuck)}. A send must stand before "
        "all that waits for what it brings about. Choose another schedule: `serial` runs on any "
        "workers"
    )
