"""One order of all messages of a step, for whoever carries them one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dougong.parallel.schedules.operation import CallKey, MessageKind, Operation, Program
from dougong.parallel.schedules.walk import walk

MessageOrder = tuple[tuple[MessageKind, CallKey], ...]
"""(kind, (site, micro-batch)) of every message of a step."""


def message_order(programs: Sequence[Program]) -> MessageOrder:
    """The messages of a step, each where the last worker has sent it when all go on as fast as they
    can. The same on every worker.

    Each message needs only earlier ones: what a worker sends may follow from what it has received
    by then, which had been sent by all before. So if every worker carries them in this order, one
    after another, none waits for ever. Raises `PlanError` for programs with a deadlock.
    """
    # Workers of one role do the same.
    by_role = list({program.role: program for program in programs}.values())
    return tuple(_sent_by_all(by_role))


def _sent_by_all(programs: Sequence[Program]) -> Iterator[tuple[MessageKind, CallKey]]:
    left: dict[Operation, int] = {}
    for _, operation in walk(programs):
        kind = operation.kind.sends
        if kind is None:
            continue
        if operation not in left:
            left[operation] = sum(other.sends(kind) for other in programs)
        left[operation] -= 1
        if not left[operation]:
            yield kind, (operation.site, operation.microbatch)
