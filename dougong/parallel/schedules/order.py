"""From an order of segments to the programs of all roles.

A schedule is one total order of all computation; a worker runs its part of it. That is why programs
of a schedule never wait for each other in a ring: the first operation of the order that is not yet
done needs only earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    program = []
    for operation in with_experts(segments, num_sites):
        is_segment = operation.kind in (Kind.FORWARD, Kind.BACKWARD)
        belongs = role != "experts" if is_segment else role != "attention"
        if belongs:
            program += with_messages(operation, num_sites, weights_wait)
    return program


def with_experts(segments: Sequence[Operation], num_sites: int) -> list[Operation]:
    """The total order: the experts' work, too, in the order in which it is asked for.

    Each stands halfway between the segment that asks and the one that needs the result (or earlier,
    if something asked for later would be too late), so that a worker of both roles leaves the way
    there and the way back the same time.
    """
    position = {operation: number for number, operation in enumerate(segments)}
    placed = [(number, 0, number, operation) for operation, number in position.items()]
    placed += _places_of_work(segments, position, num_sites)
    placed.sort(key=lambda entry: entry[:3])
    return [operation for *_, operation in placed]


def _places_of_work(
    segments: Sequence[Operation], position: Mapping[Operation, int], num_sites: int
) -> list[tuple[int, int, int, Operation]]:
    """Where the experts' work stands among the segments: (the number of the segment before it, 1:
    behind that, the number of the one that asks, the work)."""
    # Experts' work that stands "at" a number runs directly behind the segment of that number.
    # Why the result is an order that all workers can follow:
    # - Work stands at or behind the segment that asks for it (number <= middle, since the segment
    #   that needs the result comes later) and before the one that needs it (middle < its number).
    # - First asked, first served. Going backwards through the askers, `latest` never grows, so work
    #   asked for earlier never stands behind work asked for later. An asker's own bound survives
    #   this: taking the smaller of its middle and of later ones moves it forward only, and a later
    #   asker's place is at least that asker's number, hence never before this one's.
    # - Of work at one number, the earlier asker's comes first (third part of the key).
    latest = len(segments)
    placed = []
    for number, asking in reversed(list(enumerate(segments))):
        work = _asked_for(asking, num_sites)
        if work is not None:
            middle = (number + position[_needing(work)]) // 2
            latest = min(latest, middle)
            placed.append((latest, 1, number, work))
    return placed


def _asked_for(segment: Operation, num_sites: int) -> Operation | None:
    """The experts' work that the end of a segment asks for; the last forward and the last backward
    ask for none."""
    if segment.kind is Kind.FORWARD and segment.site < num_sites:
        return Operation(Kind.EXPERTS_FORWARD, segment.site, segment.microbatch)
    if segment.kind is Kind.BACKWARD and segment.site > 0:
        return Operation(Kind.EXPERTS_BACKWARD, segment.site - 1, segment.microbatch)
    return None


def _needing(work: Operation) -> Operation:
    """The segment that goes on with the result of the experts' work."""
    if work.kind is Kind.EXPERTS_FORWARD:
        return forward(work.site + 1, work.microbatch)
    return backward(work.site, work.microbatch)


# What an operation waits for and what it brings about, each with the site that it belongs to
# relative to the operation's own number: segment i lies between the sites i-1 and i.
_MESSAGES = {
    Kind.FORWARD: ((MessageKind.OUTPUTS, -1), (MessageKind.ROWS, 0)),
    Kind.BACKWARD: ((MessageKind.ROW_GRADIENTS, 0), (MessageKind.OUTPUT_GRADIENTS, -1)),
    Kind.EXPERTS_FORWARD: ((MessageKind.ROWS, 0), (MessageKind.OUTPUTS, 0)),
    Kind.EXPERTS_BACKWARD: ((MessageKind.OUTPUT_GRADIENTS, 0), (MessageKind.ROW_GRADIENTS, 0)),
}


def with_messages(operation: Operation, num_sites: int, weights_wait: bool) -> list[Operation]:
    """What a piece of computation waits for, itself, what it sends, and the gradients of the
    weights."""
    received, sent = _received(operation, num_sites), _sent(operation, num_sites)
    weights = []
    if operation.kind is Kind.EXPERTS_BACKWARD:
        weights = [Operation(Kind.WEIGHT_GRADIENTS, operation.site, operation.microbatch)]
    if weights_wait:
        return [*received, operation, *sent, *weights]
    return [*received, operation, *weights, *sent]


def _received(operation: Operation, num_sites: int) -> list[Operation]:
    """What it waits for, if anything: the first segment has no site before it."""
    message, offset = _MESSAGES[operation.kind][0]
    site = operation.site + offset
    return [receive(message, site, operation.microbatch)] if 0 <= site < num_sites else []


def _sent(operation: Operation, num_sites: int) -> list[Operation]:
    """What it brings about, if anything: the last segment has no site behind it."""
    message, offset = _MESSAGES[operation.kind][1]
    site = operation.site + offset
    return [send(message, site, operation.microbatch)] if 0 <= site < num_sites else []
