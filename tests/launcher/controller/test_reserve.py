"""Agents that stand by: they take places, are replaced, and bring a run that has shrunk back to its size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.control.messages import AgentReady
from dougong.control.worker_messages import FingerprintFound, WorkerLeft, WorkerRests
from dougong.fingerprint.record import Fingerprint
from dougong.launcher.controller.actions import (
    AskForFingerprints,
    BeginReserve,
    ForkGeneration,
    SeekNodes,
    SeeReserve,
    StartAgents,
)
from dougong.launcher.controller.inbound.items import (
    AgentsPlaced,
    BackendOpened,
    NodesListed,
    ReserveBegun,
    ReserveFailed,
    ReserveSeen,
    SignalReceived,
)
from dougong.launcher.controller.reserve import Reserve
from dougong.launcher.controller.states import Growing, Recovering, Running, Stage, Stopping
from dougong.planner.nodes import Node
from tests.launcher.controller.machine import (
    MODEL,
    Joins,
    Leaves,
    Machine,
    Passes,
    Says,
    Step,
    done,
    exits,
    found,
    killed,
    machine,
    step,
    with_deadlines,
    worker,
)


def node(number: int) -> Node:
    pool = "a" if number == 0 else "b"
    return Node(f"id-of-node{number}", f"node{number}", f"10.0.0.{number + 1}", labels={"pool": pool})


N0, N1, N2, N3 = (node(number) for number in range(4))
SPARE = "west-spare-1"


def islands(spares: int = 1, apart: bool = False) -> list[dict[str, Any]]:
    east = {"name": "east", "accelerator": "cpu", "workers": 2, "node": "pool=a"}
    west = {"name": "west", "accelerator": "cpu", "workers": 1, "node": "pool=b", "spares": spares}
    return [{**east, "role": "attention"}, {**west, "role": "experts"}] if apart else [east, west]


def comes(agent: str, node: str) -> list[Step]:
    return [Joins(agent, node), Says(agent, AgentReady(3))]


def begun(spares: int = 1, takes_fingerprints: bool = False, apart: bool = False, **job: Any) -> Machine:
    """Generation 1 of east on node0 and west on node1, not a step old; what stands by has yet to come."""
    made = machine(takes_fingerprints, islands=islands(spares, apart), **job)
    made.may_grow = True
    nodes = (N0, N1, N2) if spares else (N0, N1)
    made.play(BackendOpened("10.0.0.1"), NodesListed(nodes), AgentsPlaced())
    made.play(comes("east", "node0"), comes("west", "node1"), MODEL)
    if takes_fingerprints:
        made.play(printed("east", "east/0", "a"), printed("west", "west/0", "a"))
    made.play(found())
    assert made.state == Running(1)
    return made


def trained(spares: int = 1, apart: bool = False, **job: Any) -> Machine:
    """The same, some steps later; what stands by is there."""
    made = begun(spares, apart=apart, **job)
    if spares:
        made.play(comes(SPARE, "node2"))
    return made.play(step(1), step(2)).clear()


def printed(agent: str, name: str, bits: str) -> Step:
    answer = FingerprintFound(Fingerprint({"adding": bits}, "toy", {}).to_json())
    return Says(agent, worker(name, answer, 0, "fingerprint").message)


WEST_IS_LOST: list[Step] = [Leaves("west"), *killed("east/0", "east/1")]


def holds(*names: str, number: int = 2, generation: int = 1) -> list[Step]:
    return [worker(name, WorkerLeft(number), generation) for name in names]


def actions(made: Machine, kind: type) -> list[Any]:
    return [action for action in made.actions if isinstance(action, kind)]


def workers_of(made: Machine) -> list[str]:
    (fork,) = actions(made, ForkGeneration)
    return [one.name for one in fork.plan.workers]


# From the start


def test_a_spare_is_begun_with_the_others_and_nobody_waits_for_it() -> None:
    made = begun()
    (start,) = actions(made, StartAgents)
    assert [(spec.name, spec.node) for spec in start.specs if spec.stands_by] == [(SPARE, "id-of-node2")]
    assert "spare_stands" not in made.kinds()
    made.play(comes(SPARE, "node2"))
    assert (made.event("spare_stands").agent, made.event("spare_stands").node) == (SPARE, "node2")


def test_a_start_without_room_for_a_spare_is_a_start() -> None:
    made = machine(islands=islands())
    made.play(BackendOpened("10.0.0.1"), NodesListed((N0, N1)))
    (start,) = actions(made, StartAgents)
    assert [spec.name for spec in start.specs] == ["east", "west", SPARE]  # on processors there is always room


# It takes a place


def test_a_spare_takes_the_place_of_a_lost_agent_and_ray_is_not_asked() -> None:
    made = trained().play(WEST_IS_LOST)
    assert isinstance(made.state, Recovering)
    made.play(found(0))
    assert made.states == ["RECOVERING", "RUNNING"]
    assert not actions(made, SeekNodes) and not actions(made, StartAgents)
    took = made.event("spare_took")
    assert (took.agent, took.node, took.place, took.workers) == (SPARE, "node2", "west", ("west/0",))
    assert workers_of(made) == ["east/0", "east/1", "west/0"]
    (moved,) = made.event("planned").moved
    assert (moved.worker, moved.before, moved.now) == ("west/0", "node1", "node2")


@pytest.mark.parametrize(
    ("played", "words"),
    [
        ([], ("west-spare-1 on node2 stands by",)),
        ([Leaves(SPARE)], ("spares: none stands by for west",)),
        ([WEST_IS_LOST, found(0)], ("spares: none stands by for west",)),
    ],
)
def test_status_says_who_stands_by_and_that_nobody_does_any_more(played: list[Any], words: tuple[str, ...]) -> None:
    made = trained().play(*played)
    assert Reserve(made.facts, made.policy, made.now).words() == words
    none_asked = trained(spares=0)
    assert Reserve(none_asked.facts, none_asked.policy, none_asked.now).words() == ()


def test_status_says_how_many_of_several_spares_are_left() -> None:
    made = trained(spares=2).play(comes("west-spare-2", "node2"))
    assert not any(line.startswith("spares:") for line in Reserve(made.facts, made.policy, made.now).words())
    made.play(Leaves("west-spare-2"))
    told = Reserve(made.facts, made.policy, made.now).words()
    assert told == ("west-spare-1 on node2 stands by", "spares: 1 of 2 stand by for west")


def test_what_survivors_hold_in_memory_is_enough() -> None:
    made = trained().play(Leaves("west"), holds("east/0", "east/1"))
    assert made.state == Running(2)
    (fork,) = actions(made, ForkGeneration)
    assert fork.in_memory and fork.step == 2


def test_a_spare_that_has_yet_to_come_is_no_help() -> None:
    made = begun().play(step(1)).clear().play(WEST_IS_LOST)
    assert len(actions(made, SeekNodes)) == 1


def test_a_spare_that_dies_disturbs_nobody_and_is_replaced() -> None:
    made = trained().play(Leaves(SPARE))
    assert made.state == Running(1) and made.kinds() == ["spare_lost"]
    assert "DropAgent west-spare-1" in made.names()
    (see,) = actions(made, SeeReserve)
    assert see.gone == (SPARE,)
    made.play(ReserveSeen((N0, N1, N2), {}, (SPARE,)))
    assert [spec.node for spec in actions(made, BeginReserve)[0].specs] == ["id-of-node1"]  # node2 is left alone
    made.play(ReserveBegun((SPARE,)), comes(SPARE, "node1"))
    assert made.kinds() == ["spare_lost", "spare_stands"]


def test_another_spare_is_begun_when_one_has_taken_a_place() -> None:
    made = trained().play(WEST_IS_LOST, found(0)).clear()
    made.play(step(3, generation=2))
    (see,) = actions(made, SeeReserve)
    assert see.gone == ("west",)
    made.play(ReserveSeen((N0, N2, N3), {}, ("west",)))
    (begin,) = actions(made, BeginReserve)
    assert [(spec.name, spec.node) for spec in begin.specs] == [("west-spare-2", "id-of-node3")]


@pytest.mark.parametrize("trouble", [ReserveFailed("Ray's head is silent"), ReserveSeen((N0,), {})])
def test_what_cannot_be_found_is_sought_again_and_training_goes_on(trouble: Any) -> None:
    made = trained().play(Leaves(SPARE), trouble)
    assert made.state == Running(1) and len(actions(made, SeeReserve)) == 1
    made.play(Passes(5.5))
    assert len(actions(made, SeeReserve)) == 2


def test_a_spare_that_cannot_be_begun_is_told() -> None:
    made = trained().play(Leaves(SPARE), ReserveSeen((N0, N1), {}), ReserveBegun((SPARE,), "no such program"))
    assert made.state == Running(1)
    assert [event.reason for event in made.events if event.kind == "spare_lost"][-1] == "no such program"


def test_a_spare_that_does_not_come_is_given_up() -> None:
    made = begun().play(step(1), Passes(125.0))
    assert "agents_join_s" in made.event("spare_lost").reason


def test_a_spare_of_other_software_is_refused() -> None:
    made = begun()
    made.play(Joins(SPARE, "node2"))
    made.facts.agents[SPARE].facts.versions["torch"] = "1"  # type: ignore[union-attr]
    made.play(Says(SPARE, AgentReady(3)))
    assert "differ in torch" in made.event("spare_lost").reason


@pytest.mark.parametrize(("bits", "numerics", "kind"), [("a", "exact", "spare_stands"), ("b", "exact", "spare_lost"),
                                                        ("b", "bounded", "spare_stands")])  # fmt: skip
def test_the_devices_of_a_spare_must_compute_as_the_others(bits: str, numerics: str, kind: str) -> None:
    made = begun(takes_fingerprints=True, numerics=numerics).play(comes(SPARE, "node2"))
    assert kind not in made.kinds()
    made.play(printed(SPARE, f"{SPARE}/0", bits))
    assert kind in made.kinds()


def test_devices_that_were_probed_while_an_agent_stood_by_are_not_probed_again() -> None:
    made = begun(takes_fingerprints=True).play(comes(SPARE, "node2"), printed(SPARE, f"{SPARE}/0", "a"), step(1))
    made.clear().play(WEST_IS_LOST, found(0))
    assert made.states == ["RECOVERING", "RUNNING"]
    (asked,) = actions(made, AskForFingerprints)
    assert not asked.workers


# Without one


def test_a_run_shrinks_where_no_node_fits_and_the_job_says_so() -> None:
    made = trained(0, fault={"without_spare": "shrink"}).play(WEST_IS_LOST, NodesListed((N0,)), found(0))
    assert made.states == ["RECOVERING", "RUNNING"]
    shrunk = made.event("shrunk")
    assert (shrunk.before, shrunk.now, shrunk.missing) == (3, 2, ("west/0",))
    assert shrunk.reason.startswith("fault.without_spare is shrink") and "pool=b" in shrunk.reason
    assert workers_of(made) == ["east/0", "east/1"]


def test_what_is_known_of_the_devices_of_missing_workers_holds_when_they_are_back() -> None:
    made = begun(0, takes_fingerprints=True, fault={"without_spare": "shrink"}).play(step(1))
    made.play(WEST_IS_LOST, NodesListed((N0,)), found(0)).play(step(2, generation=2)).clear()
    assert made.state == Running(2)
    made.play(Passes(6.0), ReserveSeen((N0, N2), {}), ReserveBegun((SPARE,)), comes(SPARE, "node2"))
    made.play(printed(SPARE, f"{SPARE}/0", "a"), rests(), holds(*SHRUNK_EAST, number=3, generation=2))
    assert made.states == ["GROWING", "RUNNING"] and workers_of(made) == ["east/0", "east/1", "west/0"]


def test_a_node_that_is_there_comes_before_fewer_workers() -> None:
    made = trained(0, fault={"without_spare": "shrink"}).play(WEST_IS_LOST, NodesListed((N0, N2)))
    assert made.names()[-1] == "StartAgents west"


def test_a_run_that_waits_shrinks_when_nothing_has_come() -> None:
    made = with_deadlines(trained(0), node_return_s=5).play(WEST_IS_LOST, NodesListed((N0,)))
    assert "waiting" in made.kinds()
    for _ in range(6):
        made.play(Passes(1.0), NodesListed((N0,)))
    assert made.event("shrunk").missing == ("west/0",)
    assert made.facts.awaited == ""
    made.play(found(0))
    assert made.state == Running(2)


def test_a_run_that_is_to_stop_without_a_spare_stops_with_the_cause() -> None:
    made = trained(0, fault={"without_spare": "stop"}).play(WEST_IS_LOST, NodesListed((N0,)))
    said = str(made.outcome.error)
    assert made.outcome.state == "FAILED" and said.startswith("agent west on node1: crash: its connection ended")
    assert "fault.without_spare is stop" in said


def test_a_job_that_cannot_shrink_says_so_and_waits() -> None:
    made = trained(0, apart=True, fault={"without_spare": "shrink"}).play(WEST_IS_LOST, NodesListed((N0,)))
    assert "since it cannot go on with fewer workers" in made.event("waiting").text
    assert isinstance(made.state, Recovering) and made.state.stage is Stage.ROOM


# It grows back

SHRUNK_EAST = ("east/0", "east/1")


def shrunk() -> Machine:
    """Generation 2 of east alone, a step old."""
    made = trained(0, fault={"without_spare": "shrink"}).play(WEST_IS_LOST, NodesListed((N0,)), found(0))
    return made.play(step(3, generation=2)).clear()


def returned(made: Machine, *, after_s: float = 6.0) -> Machine:
    """A node has come, and an agent stands by there."""
    made.play(Passes(after_s), ReserveSeen((N0, N2), {}))
    (begin,) = actions(made, BeginReserve)
    (spec,) = begin.specs
    return made.play(ReserveBegun((spec.name,)), comes(spec.name, "node2"))


def rests(generation: int = 2) -> list[Step]:
    return [worker(name, WorkerRests(), generation) for name in SHRUNK_EAST]


def test_a_run_grows_back_at_the_end_of_a_step_and_loses_none() -> None:
    made = returned(shrunk())
    assert isinstance(made.state, Growing) and "AskToRest 2" in made.names()
    made.play(step(4, generation=2), rests())
    assert "EndRested 2" in made.names()
    made.play(holds(*SHRUNK_EAST, number=4, generation=2))
    assert made.states == ["GROWING", "RUNNING"] and made.facts.step == 4
    grown = made.event("grown")
    assert (grown.before, grown.now, grown.workers) == (2, 3, ("west/0",))
    assert workers_of(made) == ["east/0", "east/1", "west/0"]
    assert len(made.facts.history) == 1  # nothing has failed but the node, then
    assert "diagnosis" not in made.kinds() and "recovered" not in made.kinds()


def test_an_agent_that_is_lost_on_the_way_leaves_the_run_as_it_was() -> None:
    made = returned(shrunk()).play(rests(), Leaves(SPARE))
    made.play(holds(*SHRUNK_EAST, number=3, generation=2))
    assert made.states == ["GROWING", "RUNNING"] and workers_of(made) == ["east/0", "east/1"]


def test_an_agent_that_is_lost_with_its_place_is_done_without_at_once() -> None:
    made = returned(shrunk())
    made.paths_pass = False
    made.play(rests(), holds(*SHRUNK_EAST, number=3, generation=2))
    made.paths_pass = True
    made.play(Leaves(SPARE))
    assert made.states == ["GROWING", "RUNNING"] and workers_of(made) == ["east/0", "east/1"]
    assert "its connection ended" in made.event("shrunk").reason


def test_a_machine_that_fails_again_is_left_alone_for_longer_each_time() -> None:
    made = shrunk()
    for pause_s in (10.0, 20.0):
        made.facts.reserve.note_loss("node2", made.now)
        made.play(Passes(pause_s - 1.0))
        assert made.facts.reserve.is_left_alone("node2", made.now)
        made.play(Passes(1.5))
        assert not made.facts.reserve.is_left_alone("node2", made.now)


def test_a_worker_that_dies_instead_of_resting_is_a_failure_like_any() -> None:
    made = returned(shrunk()).play(exits("east/0", -9, 2), *killed("east/1", generation=2), found(0))
    assert "diagnosis" in made.kinds() and made.states[:2] == ["GROWING", "RECOVERING"]


def test_a_stop_comes_before_growing() -> None:
    made = returned(shrunk()).play(SignalReceived(15))
    assert isinstance(made.state, Stopping) and "AskToStop 2" in made.names()
    made.play(done(*SHRUNK_EAST, generation=2))
    assert made.outcome.state == "STOPPED"


def test_a_stop_when_all_rest_already_costs_no_step() -> None:
    made = returned(shrunk()).play(rests(), SignalReceived(15))
    made.play(holds(*SHRUNK_EAST, number=3, generation=2))
    assert isinstance(made.state, Stopping) and made.state.generation == 3  # its first step ends, and is saved


def test_where_several_agents_are_to_come_back_the_last_one_is_awaited() -> None:
    made = shrunk()
    made.facts.agents["east"].spec = replace(made.facts.agents["east"].spec, num_workers=1)
    made.play(Passes(6.0), ReserveSeen((N0, N2), {}))
    (begin,) = actions(made, BeginReserve)
    assert [spec.island for spec in begin.specs] == ["east", "west"]
    made.play(ReserveBegun(()), comes(begin.specs[0].name, "node0"))
    assert isinstance(made.state, Running)
