"""Which drills are due, and what a client is answered that asks for one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from dougong.control.channel import Channel
from dougong.control.messages import Acknowledged, InflictFault, OrderDrill, RequestRefused
from dougong.deadlines import DEADLINES
from dougong.fault.drill import FiredDrill
from dougong.launcher.controller.actions import CloseChannel, FireDrill
from dougong.launcher.controller.drills import fired_by
from dougong.launcher.controller.inbound.items import ClientRequest
from dougong.records.events import DrillFired
from tests.launcher.controller.machine import Machine, Passes, exits, running, step

STOP = OrderDrill("stop", "east/1", 2.0)


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    made = Channel(ours, "a client", DEADLINES)
    yield made
    made.close()
    theirs.close()


def answers(made: Machine) -> list[Any]:
    return [action.answer for action in made.actions if isinstance(action, CloseChannel)]


def inflicted(made: Machine) -> list[tuple[str | None, InflictFault]]:
    return [(action.agent, action.message) for action in made.actions if isinstance(action, FireDrill)]


def test_an_order_is_announced_done_and_acknowledged(channel: Channel) -> None:
    made = running(drill="allowed").play(step(1), ClientRequest(channel, STOP))
    assert inflicted(made) == [("east", InflictFault(1, "east/1", "stop", 2.0))]
    assert answers(made) == [Acknowledged()]
    event = made.event("drill")
    assert (event.worker, event.step, event.action, event.by_command, event.for_s) == ("east/1", 2, "stop", True, 2.0)


@pytest.mark.parametrize(
    ("drill", "order", "played", "said"),
    [
        ([], STOP, [step(1)], "does not say `drill: allowed`"),
        ("allowed", STOP, [], "the run is not training"),
        ("allowed", STOP, [step(1), exits("west/0", -9)], "the run is not training (recovering)"),
        ("allowed", OrderDrill("stop", "east/9"), [step(1)], "no worker is called 'east/9'; there are east/0, east/1"),
        ("allowed", OrderDrill("lunch", "east/1"), [step(1)], "no fault is called 'lunch'; there are kill, "),
        ("allowed", OrderDrill("kill_controller", ""), [step(1)], "no command stays beside this controller"),
        ("allowed", OrderDrill("kill_node", "east/1"), [step(1)], "cannot be ordered here: everything on a node"),
    ],
)
def test_an_order_is_refused_with_what_to_do(channel: Channel, drill: Any, order: OrderDrill, played: list[Any],
                                             said: str) -> None:  # fmt: skip
    made = running(drill=drill).play(*played, ClientRequest(channel, order))
    (answer,) = answers(made)
    assert isinstance(answer, RequestRefused) and said in answer.text
    assert answer.is_for_now is ("is not training" in said)
    assert inflicted(made) == []


def test_a_drill_that_would_end_the_run_is_refused(channel: Channel) -> None:
    spent = {"max_restarts": 0}
    made = running(drill="allowed", fault=spent).play(step(1), ClientRequest(channel, STOP))
    (answer,) = answers(made)
    assert isinstance(answer, RequestRefused) and "fault.max_restarts is 0" in answer.text
    harmless = running(drill="allowed", fault=spent).play(
        step(1), ClientRequest(channel, OrderDrill("pause", "east/1")))  # fmt: skip
    assert answers(harmless) == [Acknowledged()]


def test_an_agent_is_struck_when_the_step_before_is_done() -> None:
    made = running(drill=[{"at_step": 3, "fault": "kill_agent", "on": "east/1"}]).play(step(1))
    assert inflicted(made) == []
    made.play(step(2), step(3))
    assert inflicted(made) == [("east", InflictFault(1, "east/1", "kill_agent"))]
    assert made.facts.fired == {FiredDrill("kill_agent", "east/1", 3)}


def test_the_controller_strikes_itself_where_another_one_follows_it(channel: Channel) -> None:
    """When who asked has its answer: there is nobody to give it afterwards."""
    made = replace(running(drill="allowed"), is_followed=True)
    made.play(step(1), ClientRequest(channel, OrderDrill("kill_controller", "")))
    kinds = [type(action) for action in made.actions if isinstance(action, CloseChannel | FireDrill)]
    assert kinds == [CloseChannel, FireDrill]
    assert inflicted(made) == [(None, InflictFault(1, "", "kill_controller"))]
    drill = [{"at_step": 2, "fault": "stop_controller", "for_s": 1.0}]
    alone = running(drill=drill).play(step(1), step(2))
    assert inflicted(alone) == [], "the run would end with it"
    followed = replace(running(drill=drill), is_followed=True).play(step(1), step(2))
    assert inflicted(followed) == [(None, InflictFault(1, "", "stop_controller", 1.0))]


def test_a_drill_of_a_time_comes_once_then() -> None:
    made = running(drill=[{"after_s": 4.0, "fault": "stop", "on": "west/0", "for_s": 1.0}]).play(step(1), Passes(3))
    assert inflicted(made) == []
    made.play(Passes(2), step(2), Passes(5))
    assert inflicted(made) == [("west", InflictFault(1, "west/0", "stop", 1.0))]
    event = made.event("drill")
    assert isinstance(event, DrillFired) and not event.by_command
    assert fired_by(event) == (FiredDrill("stop", "west/0", None, 4.0),)


def test_a_resume_knows_the_job_files_drills_by_their_events_alone() -> None:
    ordered = DrillFired(generation=1, worker="east/1", step=7, action="kill", by_command=True)
    assert fired_by(ordered) == ()
    assert fired_by(ordered.model_copy(update={"by_command": False})) == (FiredDrill("kill", "east/1", 7),)
