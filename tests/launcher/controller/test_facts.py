"""What is known, and what an action of ours changes in it."""

from __future__ import annotations

import pytest
from dougong.errors import LaunchError
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.observation import AgentLost
from dougong.fault.past import PastFailure
from dougong.launcher.controller.actions import (
    DropAgent,
    EndGeneration,
    ForkGeneration,
    GiveUp,
    GoOn,
    LoseAgent,
    SeekNodes,
    StartAgents,
    UsePlan,
)
from dougong.launcher.controller.config import FROM_START
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.states import Stop
from dougong.parallel.plan import Inventory, Seat, make_plan
from dougong.planner.placement import AgentSpec

EAST = AgentSpec("east", "east", "both", "cpu", 1, 0, 1)
PLAN = make_plan(2, Inventory("toy", (), (), 4, ()), [Seat("east/0", "east", "both", "n", "cpu:0")])
FORK = ForkGeneration(2, PLAN, 5, None, ())


@pytest.fixture
def facts() -> RunFacts:
    return RunFacts.at(FROM_START)


def test_agents_that_were_asked_for_have_yet_to_be_placed(facts: RunFacts) -> None:
    facts.are_placed = True
    facts.note(StartAgents((EAST,), (EAST,)), 0.0)
    assert not facts.are_placed and not facts.agents["east"].is_dropped
    facts.note(DropAgent("east"), 0.0)
    assert facts.agents["east"].is_dropped


def test_an_agent_may_be_given_up_and_nodes_be_listed_anew(facts: RunFacts) -> None:
    facts.note(StartAgents((EAST,), (EAST,)), 0.0)
    facts.note(LoseAgent("east", "it did not come"), 1.0)
    assert [handle.lost for handle in facts.agents.lost] == ["agent east on its node: it did not come"]
    facts.nodes, facts.error = (), LaunchError("x")
    facts.note(SeekNodes(("east",), ()), 2.0)
    facts.note(GoOn(), 2.0)
    assert facts.nodes is None and facts.error is None


def test_a_generation_begins_where_its_checkpoint_stands(facts: RunFacts) -> None:
    facts.note(FORK, 7.0)
    assert facts.generation is not None
    assert (facts.number, facts.step, facts.generation.workers["east/0"].moved_at) == (2, 5, 7.0)
    assert facts.generation_of(2) is facts.generation and facts.generation_of(1) is None


def test_an_agent_that_was_lost_before_has_lost_its_workers(facts: RunFacts) -> None:
    facts.note(StartAgents((EAST,), (EAST,)), 0.0)
    facts.lose(facts.agents["east"], "node down", 1.0)
    facts.note(FORK, 2.0)
    assert facts.generation is not None
    assert facts.generation.failures == [AgentLost(Culprit("agent", "east"), "node down", ("east/0",))]


def test_failures_errors_and_plans_are_taken_down(facts: RunFacts) -> None:
    diagnosis, error = Diagnosis(Culprit("worker", "east/0"), "crash", "SIGKILL"), LaunchError("x")
    for action in (UsePlan(PLAN), EndGeneration(1, diagnosis), GiveUp(error)):
        facts.note(action, 0.0)
    assert (facts.plan, facts.history, facts.error) == (PLAN, [PastFailure(1, diagnosis)], error)


def test_the_first_request_to_stop_keeps_its_name_and_status(facts: RunFacts) -> None:
    assert facts.note_stop(Stop("SIGTERM", 143))
    assert not facts.note_stop(Stop("SIGINT", 130))
    assert facts.stop == Stop("SIGTERM", 143, now=True)
