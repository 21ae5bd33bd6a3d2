"""A recovery with lost agents: where they are laid out anew, what is awaited, and what if one cannot start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.control.messages import AgentReady, WorkerExited
from dougong.control.worker_messages import FingerprintFound
from dougong.errors import LaunchError, StorageError
from dougong.fingerprint.record import Fingerprint
from dougong.launcher.controller.actions import SeekNodes, StartAgents
from dougong.launcher.controller.inbound.items import (
    AgentsPlaced,
    BackendOpened,
    NodesListed,
    SignalReceived,
    TaskFailed,
)
from dougong.launcher.controller.states import Recovering, Running, Stage
from dougong.planner.nodes import Node
from tests.launcher.controller.machine import (
    MODEL,
    Joins,
    Leaves,
    Machine,
    Passes,
    Says,
    Step,
    committed,
    done,
    exits,
    found,
    killed,
    machine,
    part,
    step,
    with_deadlines,
    worker,
)


def node(number: int, **more: Any) -> Node:
    pool = "a" if number == 0 else "b"
    return Node(f"id-of-node{number}", f"node{number}", f"10.0.0.{number + 1}", labels={"pool": pool}, **more)


N0, N1, N2 = node(0), node(1), node(2)
ISLANDS = [
    {"name": "east", "accelerator": "cpu", "workers": 2, "node": "pool=a"},
    {"name": "west", "accelerator": "cpu", "workers": 1, "node": "pool=b"},
]
APART = [{**ISLANDS[0], "role": "attention"}, {**ISLANDS[1], "role": "experts"}]
"""Of these none can go on without the other."""
DIES = ["diagnosis", "decision"]
GOES_UNREADY: list[Step] = [Leaves("west"), Passes(1.1)]
WEST_IS_LOST: list[Step] = [Leaves("west"), *killed("east/0", "east/1")]


def joins(agent: str, node: str = "node2") -> list[Step]:
    return [AgentsPlaced(), Joins(agent, node), Says(agent, AgentReady(3))]


def printed(name: str, bits: str) -> Says:
    return worker(name, FingerprintFound(Fingerprint({"adding": bits}, "toy", {}).to_json()), 0, "fingerprint")


def trained(takes_fingerprints: bool = False, **job: Any) -> Machine:
    """Generation 1 of east on node0 and west on node1."""
    made = machine(takes_fingerprints, **{"islands": ISLANDS, **job})
    made.may_grow = True
    made.play(BackendOpened("10.0.0.1"), NodesListed((N0, N1)), AgentsPlaced())
    made.play(Joins("east", "node0"), Joins("west", "node1"))
    made.play(Says("east", AgentReady(1)), Says("west", AgentReady(2)), MODEL)
    if takes_fingerprints:
        made.play(printed("east/0", "a"), printed("west/0", "a"))
    made.play(found())
    assert made.state == Running(1)
    return made.clear()


def stage(made: Machine) -> Stage:
    assert isinstance(made.state, Recovering), made.state
    return made.state.stage


def where(made: Machine) -> dict[str, str | None]:
    """By agent: the id of the node on which it was started last."""
    started = [action for action in made.actions if isinstance(action, StartAgents)]
    return {spec.name: spec.node for spec in started[-1].specs}


AT_MOST = "; waits 600 s (fault.deadlines.node_return_s) at most"


def waits(made: Machine) -> list[str]:
    return [event.text for event in made.events if event.kind == "waiting"]


def test_a_lost_agent_goes_to_another_node_that_fits() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west"), found(5))
    assert made.states == ["RECOVERING", "RUNNING"]
    assert made.names() == [
        "DropAgent west", "EndGeneration 1", "ForgetParts", "SeekNodes", "StartAgents west", "AdoptChannel west",
        "UsePlan", "FindCheckpoint", "ForkGeneration 2",
    ]  # fmt: skip
    assert where(made) == {"west": "id-of-node2"}
    assert made.kinds() == [*DIES, "decision", "agents_started", "planned", "generation_started"]
    (moved,) = made.event("planned").moved
    assert (moved.worker, moved.before, moved.now) == ("west/0", "node1", "node2")


def test_what_a_lost_agent_holds_is_freed_before_the_nodes_are_listed() -> None:
    made = trained().play(WEST_IS_LOST)
    (sought,) = [action for action in made.actions if isinstance(action, SeekNodes)]
    assert sought.agents == ("west",)


def test_an_agent_lost_twice_in_the_runs_life_uses_the_budget_up() -> None:
    made = trained(fault={"max_restarts": 1}).play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west"), found(5))
    assert made.state == Running(2)
    made.play(Leaves("west"), *killed("east/0", "east/1", generation=2))
    assert made.states == ["RECOVERING", "RUNNING", "RECOVERING", "FAILED"]
    assert "fault.max_restarts is 1 and they are used up" in str(made.outcome.error)


def test_a_node_that_is_back_has_another_id() -> None:
    back = replace(N1, id="another-id")
    made = trained().play(WEST_IS_LOST, NodesListed((N0, back)), joins("west", "node1"), found(5))
    assert where(made) == {"west": "another-id"}
    assert "planned" not in made.kinds()  # the same names of nodes: the same plan


def test_what_is_awaited_is_said_at_once_and_once() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0,)))
    (text,) = waits(made)
    assert text.startswith("a node for west/0: ") and "pool=b" in text and "node0" in text
    assert made.facts.awaited == text
    for _ in range(10):
        made.play(Passes(1.0), NodesListed((N0,)))
    assert waits(made) == [text]
    assert [action.agents for action in made.actions if isinstance(action, SeekNodes)] == [("west",)] * 11
    made.play(Passes(1.0), NodesListed((N0, N2)), joins("west"), found(5))
    assert made.states == ["RECOVERING", "RUNNING"]
    assert made.facts.awaited == ""


def test_other_nodes_than_before_are_said_anew() -> None:
    stranger = Node("id-of-node9", "node9", "10.0.0.9")
    made = trained().play(WEST_IS_LOST, NodesListed((N0,)), Passes(1.0), NodesListed((N0, stranger)))
    first, second = waits(made)
    assert "node9" in second and "node9" not in first


def test_a_node_that_never_comes_ends_the_run_with_its_first_cause() -> None:
    made = with_deadlines(trained(islands=APART), node_return_s=5)
    made.play(WEST_IS_LOST, NodesListed((N0,)))
    for _ in range(5):
        made.play(Passes(1.0), NodesListed((N0,)))
    assert made.states == ["RECOVERING"]
    made.play(Passes(1.0), NodesListed((N0,)))
    assert (made.outcome.state, made.outcome.status) == ("FAILED", 1)
    said = str(made.outcome.error)
    assert said.startswith("agent west on node1: crash: its connection ended; ")
    assert "the controller waited 5 s (fault.deadlines.node_return_s) for a node for west/0: " in said
    assert "pool=b" in said and "node0" in said


@pytest.mark.parametrize("number", [2, 15])
def test_a_stop_ends_the_wait_at_once(number: int) -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0,)), SignalReceived(number))
    assert (made.outcome.state, made.outcome.status) == ("STOPPED", 128 + number)


def test_an_agent_that_cannot_start_on_a_node_is_tried_on_another() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N1, N2)), AgentsPlaced())
    first = where(made)["west"]
    made.play(Joins("west", "node1"), GOES_UNREADY)
    assert stage(made) is Stage.NODES
    made.play(NodesListed((N0, N1, N2)))
    assert {first, where(made)["west"]} == {"id-of-node1", "id-of-node2"}
    made.play(joins("west"), found(5))
    assert made.state == Running(2)
    assert made.kinds().count("diagnosis") == 1  # tries are no failures


def test_a_node_on_which_an_agent_could_not_start_is_tried_again_later_and_later() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west")[:2], GOES_UNREADY)
    for pause_s in (10, 20):
        made.clear().play(NodesListed((N0, N2)))
        (text,) = waits(made)
        assert "tried in vain, and again later: agent west on node2: its connection ended" in text
        for _ in range(pause_s - 1):
            made.play(Passes(1.0), NodesListed((N0, N2)))
        assert "StartAgents west" not in made.names()
        made.play(Passes(1.0), NodesListed((N0, N2)))
        assert made.names()[-1] == "StartAgents west"
        made.play(joins("west")[:2], GOES_UNREADY)


def test_on_the_only_machine_there_is_an_agent_is_tried_twice() -> None:
    made = trained(islands=APART)
    made.may_grow = False
    fails = [NodesListed((N0, N1)), AgentsPlaced(), Joins("west", "node1"), *GOES_UNREADY, NodesListed((N0, N1))]
    made.play(WEST_IS_LOST, fails)
    assert stage(made) is Stage.ROOM
    made.play(Passes(11.0), fails)
    assert made.states == ["RECOVERING", "FAILED"]
    said = str(made.outcome.error)
    assert "its agent cannot be started again: a node for west/0: " in said and "agent west on node1" in said


def test_an_agent_that_does_not_come_is_tried_elsewhere() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), AgentsPlaced(), Passes(121), NodesListed((N0, N1, N2)))
    assert where(made) == {"west": "id-of-node1"}
    made.play(joins("west", "node1"), found(5))
    assert made.state == Running(2)


def test_a_device_that_computes_other_bits_leads_to_the_next_node() -> None:
    made = trained(takes_fingerprints=True)
    made.play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west"), printed("west/0", "b"), NodesListed((N0, N1, N2)))
    assert where(made) == {"west": "id-of-node1"}
    made.play(joins("west", "node1"), printed("west/0", "a"), found(5))
    assert made.state == Running(2)


def test_a_device_that_computes_other_bits_is_named_while_there_is_no_other() -> None:
    made = trained(takes_fingerprints=True)
    made.play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west"), printed("west/0", "b"), NodesListed((N0, N2)))
    (text,) = waits(made)
    assert "agent west on node2: its kernels are of class" in text


def test_other_bits_are_taken_where_nothing_is_promised() -> None:
    made = trained(takes_fingerprints=True, numerics="bounded")
    made.play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west"), printed("west/0", "b"), found(5))
    assert made.state == Running(2) and "warning" in made.kinds()


def test_agents_that_do_not_agree_with_the_run_are_tried_elsewhere() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), AgentsPlaced())
    made.facts.agents["east"].facts.versions["torch"] = "1"  # type: ignore[union-attr]
    made.play(Joins("west", "node2"))
    assert stage(made) is Stage.NODES
    made.play(NodesListed((N0, N2)))
    assert "agent west on node2: the nodes differ in torch" in waits(made)[0]


def test_a_second_agent_that_is_lost_meanwhile_is_laid_out_with_the_first() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), AgentsPlaced(), Joins("west", "node2"), Leaves("east"))
    made.play(NodesListed((N0, N2)))
    assert where(made) == {"east": "id-of-node0"}  # west has joined, and is kept
    made.play(AgentsPlaced(), Joins("east", "node0"), Says("east", AgentReady(4)), Says("west", AgentReady(4)))
    made.play(found(5))
    assert made.state == Running(2)


def test_an_agent_that_has_yet_to_join_is_ended_before_the_nodes_are_listed_anew() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), AgentsPlaced(), Leaves("east"))
    sought = [action for action in made.actions if isinstance(action, SeekNodes)]
    assert set(sought[-1].agents) == {"east", "west"}  # what the new west holds is free again
    made.play(NodesListed((N0, N2)))
    assert where(made) == {"east": "id-of-node0", "west": "id-of-node2"}


def test_a_node_that_is_lost_while_a_checkpoint_is_looked_at_is_awaited_as_long_as_any() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west"), Passes(1000.0))
    assert stage(made) is Stage.CHECKPOINT
    made.play(Leaves("west"), NodesListed((N0,)))
    assert stage(made) is Stage.ROOM and "a node for west/0" in waits(made)[-1]
    made.play(Passes(500.0), NodesListed((N0, N1)), joins("west", "node1"), found(5), found(5))
    assert made.state == Running(2)


def test_a_try_that_comes_to_nothing_is_told_at_once() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), joins("west")[:2], GOES_UNREADY)
    assert made.event("warning").text == "agent west on node2: its connection ended; looks for a node anew"


@pytest.mark.parametrize("agent", ["east", "west"])
def test_an_agent_that_is_lost_while_a_checkpoint_is_sought_is_laid_out_anew(agent: str) -> None:
    made = trained().play(exits("west/0", -9), *killed("east/0", "east/1"))
    assert stage(made) is Stage.CHECKPOINT
    made.play(Leaves(agent), found(5), NodesListed((N0, N2)))
    assert where(made) == {agent: "id-of-node0" if agent == "east" else "id-of-node2"}
    made.play(joins(agent), found(5))
    assert made.state == Running(2) and made.kinds().count("diagnosis") == 1


def test_a_search_that_was_overtaken_is_not_taken_for_the_next_one() -> None:
    made = trained().play(exits("west/0", -9), *killed("east/0", "east/1"), Leaves("west"), NodesListed((N0, N2)))
    made.play(joins("west"), found(5))
    assert stage(made) is Stage.CHECKPOINT  # the answer to the first search
    made.play(found(6))
    assert made.facts.step == 6


def test_a_place_that_is_gone_when_it_is_asked_for_is_awaited() -> None:
    taken = TaskFailed(LaunchError("node2 has no room"))
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), taken)
    assert (stage(made), waits(made)) == (Stage.ROOM, ["a node for west/0: node2 has no room" + AT_MOST])
    made.play(Passes(1.0), NodesListed((N0, N2)), joins("west"), found(5))
    assert made.state == Running(2)


def test_a_place_that_is_gone_for_one_agent_costs_the_other_nothing() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), AgentsPlaced(), Joins("west", "node2"), Leaves("east"))
    made.play(NodesListed((N0, N2)), TaskFailed(LaunchError("node0 has no room")))
    assert [handle.spec.name for handle in made.facts.agents.living] == ["west"]
    made.play(Passes(1.0), NodesListed((N0, N2)))
    assert where(made) == {"east": "id-of-node0"}


def test_a_cluster_that_does_not_answer_is_awaited() -> None:
    made = trained().play(WEST_IS_LOST, TaskFailed(ConnectionError("the head is away")))
    assert waits(made) == ["a node for west/0: ConnectionError: the head is away" + AT_MOST]
    made.play(Passes(1.0), NodesListed((N0, N2)))
    assert where(made) == {"west": "id-of-node2"}


def test_a_record_that_cannot_be_written_ends_the_search() -> None:
    made = trained().play(WEST_IS_LOST, TaskFailed(StorageError("/run/events.jsonl: no room")))
    assert made.outcome.state == "FAILED" and "no room" in str(made.outcome.error)


def test_an_island_over_two_nodes_loses_one() -> None:
    devices = {"npu": 2}
    nodes = [replace(node(number), devices=devices) for number in range(3)]
    made = machine(islands=[{"name": "east", "accelerator": "npu", "workers": 4}])
    made.play(BackendOpened("10.0.0.1"), NodesListed(tuple(nodes[:2])), AgentsPlaced())
    made.play(Joins("east-0", "node0"), Joins("east-2", "node1"))
    made.play(Says("east-0", AgentReady(1)), Says("east-2", AgentReady(2)))
    made.play(Says("east-0", MODEL.message), found())
    assert made.state == Running(1)
    ends = [Says("east-0", WorkerExited(1, f"east/{i}", "train", -9, pid=7, asked=True)) for i in (0, 1)]
    made.clear().play(Leaves("east-2"), *ends, NodesListed((nodes[0],)))
    assert waits(made)[0].startswith("a node for east/2-3: ")
    made.play(Passes(1.0), NodesListed((nodes[0], nodes[2])))
    (started,) = [action for action in made.actions if isinstance(action, StartAgents)]
    assert [spec.name for spec in started.layout] == ["east-0", "east-2"]
    assert where(made) == {"east-2": "id-of-node2"}


def test_the_late_return_of_an_agent_that_was_cut_off_is_refused() -> None:
    made = trained().play(WEST_IS_LOST, NodesListed((N0, N2)), AgentsPlaced()).clear()
    made.play(Joins("west", "node1", ray_node="id-of-node1"))
    assert (made.names(), made.kinds()) == (["CloseChannel"], ["warning"])
    made.play(Joins("west", "node2", ray_node="id-of-node2"))
    assert made.names()[-1] == "AdoptChannel west"


def test_a_loss_while_the_run_ends_looks_for_nothing() -> None:
    made = trained().play(step(20), *[part(name, 20) for name in ("east/0", "east/1", "west/0")])
    made.play(*done("east/0", "east/1", "west/0"), Leaves("west"), committed(20))
    assert made.outcome.state == "FINISHED"
