"""The checker finds every fault that a schedule can have, and only those."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.errors import PlanError
from dougong.parallel.schedules.check import Alive, check, count_alive, expected, needs
from dougong.parallel.schedules.operation import Kind, MessageKind, Operation, Program, backward, forward, receive, send
from dougong.parallel.schedules.order import lay_out
from dougong.parallel.schedules.registry import SCHEDULES, make_programs
from dougong.parallel.schedules.walk import awaited
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parallel.schedules.orders import SPLIT, TEAMS, any_programs, with_operations


def changed(name: str, worker: int, change: Any) -> list[Program]:
    """The programs of a schedule, 1 site and 2 micro-batches, with one worker's list changed in place."""
    programs = make_programs(name, 1, 2, SPLIT)
    operations = list(programs[worker].operations)
    change(operations)
    programs[worker] = with_operations(programs[worker], operations)
    return programs


def swap(first: Operation, second: Operation) -> Any:
    def change(operations: list[Operation]) -> None:
        one, other = operations.index(first), operations.index(second)
        operations[one], operations[other] = second, first

    return change


A, E = 0, 1


@pytest.mark.parametrize(
    ("worker", "change", "message"),
    [
        (
            A,
            lambda o: o.remove(send(MessageKind.ROWS, 0, 1)),
            r"a \(attention\) lacks 1 of 16 operations, .* send rows",
        ),
        (E, lambda o: o.remove(Operation(Kind.EXPERTS_BACKWARD, 0, 0)), r"e \(experts\) lacks 1 of 14 .* experts back"),
        (A, lambda o: o.append(forward(0, 0)), r"operation 16 .* forward \(segment 0, .* 0\): it stands there before"),
        (E, lambda o: o.append(forward(0, 0)), r"operation 14 .*: no such operation with 1 sites and 2 micro-batches"),
        (A, lambda o: o.append(backward(2, 0)), r"no such operation"),
        (
            A,
            swap(forward(0, 0), send(MessageKind.ROWS, 0, 0)),
            r"operation 0 .*: it needs forward \(segment 0, .*later",
        ),
        (A, swap(backward(1, 0), backward(1, 1)), r"it needs forward \(segment 1, micro-batch 1\)"),
        (
            E,
            swap(receive(MessageKind.ROWS, 0, 0), receive(MessageKind.ROWS, 0, 1)),
            r"it needs receive rows .*micro-batch 0",
        ),
    ],
)
def test_what_is_wrong_in_one_list(worker: int, change: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check(changed("zebra", worker, change), 1, 2)


def test_backwards_go_in_the_order_of_micro_batches() -> None:
    """Legal for time and messages, but gradients would be added in another order."""
    order = [forward(0, 0), forward(0, 1), forward(1, 0), forward(1, 1)]
    order += [backward(1, 1), backward(1, 0), backward(0, 1), backward(0, 0)]
    programs = [Program(w, role, tuple(lay_out(order, 1, role))) for w, role in SPLIT.items()]
    with pytest.raises(PlanError, match=r"backward \(segment 1, micro-batch 0\): micro-batch 1 was there before"):
        check(programs, 1, 2)


@pytest.mark.parametrize("kind", [Kind.EXPERTS_BACKWARD, Kind.WEIGHT_GRADIENTS])
def test_so_do_the_experts_backwards(kind: Kind) -> None:
    programs = make_programs("zebra", 1, 2, SPLIT)
    operations = list(programs[E].operations)
    if kind is Kind.WEIGHT_GRADIENTS:
        operations = [o for o in operations if o.kind is not kind] + [Operation(kind, 0, 1), Operation(kind, 0, 0)]
    else:
        operations = operations[:6] + operations[10:] + operations[6:10]
    programs[E] = with_operations(programs[E], operations)
    with pytest.raises(PlanError, match=rf"{kind.words} \(site 0, micro-batch 0\): micro-batch 1 was there before"):
        check(programs, 1, 2)


def test_messages_of_a_kind_stay_in_order() -> None:
    programs = make_programs("zebra", 1, 2, SPLIT)
    first, second = programs[E].operations[:3], programs[E].operations[3:6]
    programs[E] = with_operations(programs[E], [*second, *first, *programs[E].operations[6:]])
    with pytest.raises(
        PlanError, match=r"e \(experts\) cannot run operation 0 .* the next from a is send rows \(site 0"
    ):
        check(programs, 1, 2)


def test_a_deadlock_of_two_workers() -> None:
    """Each list is complete and legal by itself; attention asks for the second micro-batch only after the first is
    through, the experts want both before they answer."""
    programs = make_programs("serial", 1, 2, SPLIT)
    rows = [receive(MessageKind.ROWS, 0, j) for j in range(2)]
    rest = [operation for operation in programs[E].operations if operation not in rows]
    programs[E] = with_operations(programs[E], rows + rest)
    with pytest.raises(PlanError) as refused:
        check(programs, 1, 2)
    assert "a at operation 2, receive expert outputs (site 0, micro-batch 0), for e;" in str(refused.value)
    assert "e at operation 1, receive rows (site 0, micro-batch 1), for a." in str(refused.value)


@pytest.mark.parametrize(("role", "missing"), [("experts", "attention"), ("attention", "experts")])
def test_a_side_without_workers(role: Any, missing: str) -> None:
    with pytest.raises(PlanError, match=f"no worker has {missing}.*`role: {missing}`"):
        check(make_programs("zebra", 1, 1, {"w": role}), 1, 1)


def test_one_program_for_each_worker() -> None:
    programs = make_programs("zebra", 1, 1, SPLIT)
    with pytest.raises(PlanError, match="two programs for one worker among a, e, e"):
        check([*programs, programs[-1]], 1, 1)


def test_an_experts_wave_lives_until_its_weights_are_done() -> None:
    (program,) = make_programs("serial", 3, 2, {"e": "experts"})
    assert count_alive(program) == Alive(0, 3)
    late = sorted(program.operations, key=lambda operation: operation.kind is Kind.WEIGHT_GRADIENTS)
    assert count_alive(with_operations(program, late)) == Alive(0, 6)


def holds(programs: list[Program], num_sites: int, num_microbatches: int) -> bool:
    """The same question asked of a graph: all there, what follows what has no ring, queues in order."""
    after: dict[tuple[str, Operation], set[tuple[str, Operation]]] = {}
    for program in programs:
        if sorted(map(str, program.operations)) != sorted(map(str, expected(program, num_sites, num_microbatches))):
            return False
        for before, operation in zip((None, *program.operations), program.operations):
            after[program.worker, operation] = {(program.worker, before)} if before else set()
            after[program.worker, operation] |= set(awaited(programs, operation))
            needed = needs(operation, num_sites)
            after[program.worker, operation] |= {(program.worker, needed)} if needed else set()
    while free := [node for node, waits in after.items() if not waits]:
        for node in free:
            del after[node]
        for waits in after.values():
            waits.difference_update(free)
    return not after and ascending(programs) and queued(programs)


def ascending(programs: list[Program]) -> bool:
    kinds = (Kind.BACKWARD, Kind.EXPERTS_BACKWARD, Kind.WEIGHT_GRADIENTS)
    backwards = [[o for o in p.operations if o.kind in kinds] for p in programs]
    return all(
        one.microbatch < other.microbatch
        for operations in backwards
        for at, one in enumerate(operations)
        for other in operations[at + 1 :]
        if (one.kind, one.site) == (other.kind, other.site)
    )


def queued(programs: list[Program]) -> bool:
    """Every message has one order among all its senders and receivers (all of a side talk to all of the other)."""
    for message in MessageKind:
        ends = [[o for o in p.operations if message in (o.kind.sends, o.kind.receives)] for p in programs]
        orders = {tuple((o.site, o.microbatch) for o in end if o.kind.sends) for end in ends}
        orders |= {tuple((o.site, o.microbatch) for o in end if o.kind.receives) for end in ends}
        if len(orders - {()}) > 1:
            return False
    return True


@given(any_programs(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_list_that_is_shuffled_a_little_is_refused_exactly_if_it_is_wrong(
    drawn: tuple[list[Program], int, int], data: st.DataObject
) -> None:
    programs, num_sites, num_microbatches = drawn
    worker = data.draw(st.integers(0, len(programs) - 1))
    operations = list(programs[worker].operations)
    for _ in range(data.draw(st.integers(1, 2))):
        moved = operations.pop(data.draw(st.integers(0, len(operations) - 1)))
        operations.insert(data.draw(st.integers(0, len(operations))), moved)
    programs[worker] = with_operations(programs[worker], operations)
    if holds(programs, num_sites, num_microbatches):
        check(programs, num_sites, num_microbatches)
    else:
        with pytest.raises(PlanError):
            check(programs, num_sites, num_microbatches)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_single_operation_is_missed(name: str) -> None:
    whole = make_programs(name, 2, 2, TEAMS["both"])
    for position in range(len(whole[0].operations)):
        operations = [o for at, o in enumerate(whole[0].operations) if at != position]
        with pytest.raises(PlanError, match="lacks 1 of|it needs"):
            check([with_operations(whole[0], operations), *whole[1:]], 2, 2)
