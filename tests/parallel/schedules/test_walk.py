"""The walk: everything happens once, nothing before what it waits for, and a ring of waits is named."""

from __future__ import annotations

import pytest
from dougong.errors import PlanError
from dougong.parallel.schedules.operation import MessageKind, Operation, Program, receive, send
from dougong.parallel.schedules.registry import make_programs
from dougong.parallel.schedules.walk import awaited, walk
from tests.parallel.schedules.orders import TEAMS


@pytest.mark.parametrize("team", TEAMS)
def test_a_walk_meets_everything_in_a_possible_order(team: str) -> None:
    programs = make_programs("zebra", 2, 3, TEAMS[team])
    seen: dict[str, list[Operation]] = {program.worker: [] for program in programs}
    for program, operation in walk(programs):
        assert all(posted in seen[peer] for peer, posted in awaited(programs, operation))
        seen[program.worker].append(operation)
    assert {program.worker: list(program.operations) for program in programs} == seen


def test_a_receive_waits_for_all_of_the_other_side() -> None:
    programs = make_programs("zebra", 1, 1, TEAMS["mixed"])
    rows, answers = (awaited(programs, receive(message, 0, 0)) for message in (MessageKind.ROWS, MessageKind.OUTPUTS))
    assert rows == [("a", send(MessageKind.ROWS, 0, 0)), ("b", send(MessageKind.ROWS, 0, 0))]
    assert answers == [("b", send(MessageKind.OUTPUTS, 0, 0)), ("e", send(MessageKind.OUTPUTS, 0, 0))]
    assert not awaited(programs, send(MessageKind.ROWS, 0, 0))


def test_two_workers_that_wait_for_each_other_are_named() -> None:
    ask, serve = send(MessageKind.ROWS, 0, 0), send(MessageKind.OUTPUTS, 0, 0)
    a = Program("a", "attention", (receive(MessageKind.OUTPUTS, 0, 0), ask))
    e = Program("e", "experts", (receive(MessageKind.ROWS, 0, 0), serve))
    with pytest.raises(PlanError) as refused:
        list(walk([a, e]))
    assert "a at operation 0, receive expert outputs (site 0, micro-batch 0), for e;" in str(refused.value)
    assert "e at operation 0, receive rows (site 0, micro-batch 0), for a." in str(refused.value)
