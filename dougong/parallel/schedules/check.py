"""Proves of the programs of a step, before it runs, that they do all of it, in a legal order, and
come to an end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dougong.errors import PlanError
from dougong.parallel.schedules.operation import (
    Kind,
    MessageKind,
    Operation,
    Program,
    backward,
    forward,
    receive,
    send,
)
from dougong.parallel.schedules.walk import walk

_EXPERTS = (Kind.EXPERTS_FORWARD, Kind.EXPERTS_BACKWARD, Kind.WEIGHT_GRADIENTS)
_IN_ORDER = (Kind.BACKWARD, Kind.EXPERTS_BACKWARD, Kind.WEIGHT_GRADIENTS)


# What an operation needs of the same site (or segment) and micro-batch; `needs` knows the others,
# and that the last segment's backward needs its forward alone.
_NEEDS = {
    Kind.BACKWARD: Kind.RECEIVE_ROW_GRADIENTS,
    Kind.SEND_ROWS: Kind.FORWARD,
    Kind.EXPERTS_FORWARD: Kind.RECEIVE_ROWS,
    Kind.SEND_OUTPUTS: Kind.EXPERTS_FORWARD,
    Kind.EXPERTS_BACKWARD: Kind.RECEIVE_OUTPUT_GRADIENTS,
    Kind.WEIGHT_GRADIENTS: Kind.EXPERTS_BACKWARD,
    Kind.SEND_ROW_GRADIENTS: Kind.EXPERTS_BACKWARD,
}


@dataclass(frozen=True)
class Alive:
    """The most that a worker keeps at a time for backwards to come.

    `segments`: forwards of (segment, micro-batch); `waves`: experts' inputs of (site, micro-batch).
    """

    segments: int
    waves: int


def check(programs: Sequence[Program], num_sites: int, num_microbatches: int) -> dict[str, Alive]:
    """What every worker keeps alive at most. Raises `PlanError`, with worker, operation and
    position, unless

    - every program holds each operation of its role once, and what an operation needs stands before
      it;
    - on every worker the backwards of a segment or site run in ascending order of micro-batches
      (gradients are added in that order: another one would give other bits);
    - messages of one kind from one worker to another are received in the order in which they are
      sent;
    - all programs come to their end when sends never wait and receives wait for all peers.
    """
    _check_sides(programs, num_sites)
    # Of workers with one list the first is looked at, which would be the first to be refused.
    firsts: dict[object, Program] = {}
    for program in programs:
        firsts.setdefault(program.shared, program)
    for program in firsts.values():
        _check_complete(program, num_sites, num_microbatches)
        _check_needs(program, num_sites)
        _check_ascending(program)
    _check_messages(list(firsts.values()))
    for _ in walk(programs):
        pass
    alive = {shared: count_alive(program) for shared, program in firsts.items()}
    return {program.worker: alive[program.shared] for program in programs}


def expected(program: Program, num_sites: int, num_microbatches: int) -> Iterator[Operation]:
    """All operations of a program of this role, in no particular order."""
    for site, microbatch in itertools.product(range(num_sites + 1), range(num_microbatches)):
        if program.has_attention:
            yield from (forward(site, microbatch), backward(site, microbatch))
        if site == num_sites:
            continue
        if program.has_experts:
            yield from (Operation(kind, site, microbatch) for kind in _EXPERTS)
        yield from (
            send(message, site, microbatch) for message in MessageKind if program.sends(message)
        )
        yield from (
            receive(message, site, microbatch)
            for message in MessageKind
            if program.receives(message)
        )


def needs(operation: Operation, num_sites: int) -> Operation | None:
    """The operation of the same worker that an operation cannot be without."""
    site, microbatch = operation.site, operation.microbatch
    if operation.kind is Kind.FORWARD:
        return receive(MessageKind.OUTPUTS, site - 1, microbatch) if site > 0 else None
    if operation.kind is Kind.BACKWARD and site == num_sites:
        return forward(site, microbatch)
    if operation.kind is Kind.SEND_OUTPUT_GRADIENTS:
        return backward(site + 1, microbatch)
    needed = _NEEDS.get(operation.kind)
    return None if needed is None else Operation(needed, site, microbatch)


def count_alive(program: Program) -> Alive:
    """The most forwards whose backward has not yet been; a wave lives until its weights' gradients
    are there."""
    segments = _most(program, Kind.FORWARD, Kind.BACKWARD)
    return Alive(segments, _most(program, Kind.EXPERTS_FORWARD, Kind.WEIGHT_GRADIENTS))


def _most(program: Program, begins: Kind, ends: Kind) -> int:
    steps = (
        (operation.kind is begins) - (operation.kind is ends) for operation in program.operations
    )
    return max(itertools.accumulate(steps, initial=0))


def _check_sides(programs: Sequence[Program], num_sites: int) -> None:
    workers = [program.worker for program in programs]
    if len(set(workers)) < len(workers):
        raise PlanError(
            f"two programs for one worker among {', '.join(workers)}: each worker runs one"
        )
    attention = any(program.has_attention for program in programs)
    experts = any(program.has_experts for program in programs) or not num_sites
    if not attention or not experts:
        missing = "experts" if attention else "attention"
        raise PlanError(
            f"no worker has {missing}, and a step needs attention and experts: give an island "
            f"`role: {missing}` or `role: both` in the job file"
        )


def _check_complete(program: Program, num_sites: int, num_microbatches: int) -> None:
    """Every operation of its role stands in it, once, and no other."""
    wanted = set(expected(program, num_sites, num_microbatches))
    seen: set[Operation] = set()
    for position, operation in enumerate(program.operations):
        if operation not in wanted:
            raise _refusal(
                program,
                position,
                f"no such operation with {num_sites} sites and {num_microbatches} micro-batches",
            )
        if operation in seen:
            raise _refusal(program, position, "it stands there before; each operation runs once")
        seen.add(operation)
    if seen < wanted:
        missing = sorted(str(operation) for operation in wanted - seen)
        raise _incomplete(program, missing, len(wanted))


def _incomplete(program: Program, missing: Sequence[str], num_wanted: int) -> PlanError:
    return PlanError(
        f"the schedule of worker {program.worker} ({program.role}) lacks {len(missing)} of "
        f"{num_wanted} operations, among them {missing[0]}. Choose another schedule: `serial` "
        "runs on any workers"
    )


def _check_needs(program: Program, num_sites: int) -> None:
    seen: set[Operation] = set()
    for position, operation in enumerate(program.operations):
        needed = needs(operation, num_sites)
        if needed is not None and needed not in seen:
            raise _refusal(program, position, f"it needs {needed}, which comes later")
        seen.add(operation)


def _check_ascending(program: Program) -> None:
    newest: dict[tuple[Kind, int], int] = {}
    for position, operation in enumerate(program.operations):
        if operation.kind not in _IN_ORDER:
            continue
        before = newest.get((operation.kind, operation.site), -1)
        if operation.microbatch < before:
            raise _refusal(
                program,
                position,
                f"micro-batch {before} was there before; gradients are added in ascending order",
            )
        newest[operation.kind, operation.site] = operation.microbatch


def _check_messages(programs: Sequence[Program]) -> None:
    for message, sender, receiver in itertools.product(MessageKind, programs, programs):
        if sender.sends(message) and receiver.receives(message):
            _check_order(message, sender, receiver)


def _check_order(message: MessageKind, sender: Program, receiver: Program) -> None:
    """Messages of one kind are received in the order in which they are sent."""
    sent = [operation for operation in sender.operations if operation.kind.sends is message]
    operations = enumerate(receiver.operations)
    received = [entry for entry in operations if entry[1].kind.receives is message]
    for sending, (position, receiving) in zip(sent, received, strict=True):
        if sending != send(message, receiving.site, receiving.microbatch):
            why = (
                f"the next from {sender.worker} is {sending}; messages of one kind arrive in "
                "the order of sending"
            )
            raise _refusal(receiver, position, why)


def _refusal(program: Program, position: int, why: str) -> PlanError:
    return PlanError(
        f"worker {program.worker} ({program.role}) cannot run operation {position} of its "
        f"schedule, {program.operations[position]}: {why}. Choose another schedule: `serial` runs "
        "on any workers"
    )
