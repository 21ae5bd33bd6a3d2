"""From an order of segments to the programs of all roles.

A schedule is one total order of all computation; a worker runs its part of it. That is why programs
of a schedule never wait for each other in a ring: the first operation of the order that is not yet
done needs only earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from dougong.parallel.plan import Role
from dougong.parallel.schedules.operation import (
    Kind,
    MessageKind,
    Operation,
    backward,
    forward,
    receive,
    send,
)


def lay_out(
    segments: Sequence[Operation], num_sites: int, role: Role, weights_wait: bool = True
) -> list[Operation]:
    """The program of a role, from the order in which attention runs its forwards and backwards.

    A receive stands directly before the operation that needs it, a send directly behind the one
    that made it: all that lies between hides the message's journey. The weights' gradients wait
    until those of the rows have been sent, or (`weights_wait` false) come before. First asked,
    first used: in `segments` no forward overtakes another, nor a backward another; else `check`
    refuses the programs.
    """
    mine = {"attention": (True,), "experts": (False,), "both": (True, False)}[role]
    order = with_experts(segments, num_sites)
    computed = [
        operation
        for operation in order
        if (operation.kind in (Kind.FORWARD, Kind.BACKWARD)) in mine
    ]
    return [
        step for operation in computed for step in with_messages(operation, num_sites, weights_wait)
    ]


def with_experts(segments: Sequence[Operation], num_sites: int) -> list[Operation]:
    """The total order: the experts' work, too, in the order in which it is asked for.

    Each stands halfway between the segment that asks and the one that needs the answer (or earlier,
    if something asked for later would be too late), so that a worker of both roles leaves the way
    there and the way back the same time.
    """
    place = {operation: number for number, operation in enumerate(segments)}
    entries = [(number, 0, number, operation) for operation, number in place.items()]
    latest = len(segments)
    for number, asking in reversed(list(enumerate(segments))):
        work = _asked(asking, num_sites)
        if work is not None:
            kind, site = (
                (forward, work.site + 1)
                if work.kind is Kind.EXPERTS_FORWARD
                else (backward, work.site)
            )
            latest = min(latest, (number + place[kind(site, work.microbatch)]) // 2)
            entries.append((latest, 1, number, work))
    return [entry[-1] for entry in sorted(entries, key=lambda entry: entry[:3])]


def _asked(segment: Operation, num_sites: int) -> Operation | None:
    """The experts' work that the end of a segment asks for; the last forward and the last backward
    ask for none."""
    if segment.kind is Kind.FORWARD and segment.site < num_sites:
        return Operation(Kind.EXPERTS_FORWARD, segment.site, segment.microbatch)
    if segment.kind is Kind.BACKWARD and segment.site > 0:
        return Operation(Kind.EXPERTS_BACKWARD, segment.site - 1, segment.microbatch)
    return None


def with_messages(operation: Operation, num_sites: int, weights_wait: bool) -> list[Operation]:
    """What a piece of computation waits for, itself, what it sends, and the gradients of the
    weights."""
    kind, site, microbatch = operation.kind, operation.site, operation.microbatch
    awaited, produced = {
        Kind.FORWARD: ((MessageKind.ANSWERS, site - 1), (MessageKind.ROWS, site)),
        Kind.BACKWARD: (
            (MessageKind.ROW_GRADIENTS, site),
            (MessageKind.ANSWER_GRADIENTS, site - 1),
        ),
        Kind.EXPERTS_FORWARD: ((MessageKind.ROWS, site), (MessageKind.ANSWERS, site)),
        Kind.EXPERTS_BACKWARD: (
            (MessageKind.ANSWER_GRADIENTS, site),
            (MessageKind.ROW_GRADIENTS, site),
        ),
    }[kind]
    before = [receive(awaited[0], awaited[1], microbatch)] if 0 <= awaited[1] < num_sites else []
    after = [send(produced[0], produced[1], microbatch)] if 0 <= produced[1] < num_sites else []
    if kind is Kind.EXPERTS_BACKWARD:
        after.insert(
            len(after) if weights_wait else 0, Operation(Kind.WEIGHT_GRADIENTS, site, microbatch)
        )
    return [*before, operation, *after]
