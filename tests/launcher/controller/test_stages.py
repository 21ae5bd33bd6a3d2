"""A start and a recovery, stage by stage: what each waits for, and what it says when that does not come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.control.messages import AgentReady
from dougong.control.path_messages import CONTROLLER, PathResult
from dougong.control.run_sources import LOOKED_FOR, RunSources
from dougong.control.worker_messages import FingerprintFound, ModelFound
from dougong.errors import NoRoomError
from dougong.fingerprint.record import Fingerprint
from dougong.launcher.controller.inbound.items import (
    AgentsEnded,
    AgentsPlaced,
    Awaited,
    BackendOpened,
    NodesListed,
    SignalReceived,
    TaskFailed,
)
from dougong.launcher.controller.states import Recovering, Stage, Starting
from dougong.parallel.plan import TensorSpec
from dougong.planner.nodes import Node
from tests.launcher.controller.machine import (
    INVENTORY,
    MODEL,
    NODE,
    UP_TO_JOIN,
    UP_TO_MODEL,
    UP_TO_READY,
    Joins,
    Leaves,
    Machine,
    Passes,
    Says,
    Step,
    exits,
    found,
    killed,
    machine,
    running,
    tried,
    with_deadlines,
    worker,
)

READY: list[Step] = [Says("east", AgentReady(1)), Says("west", AgentReady(2))]


def printed(name: str, bits: str) -> Says:
    return worker(name, FingerprintFound(Fingerprint({"adding": bits}, "toy", {}).to_json()), 0, "fingerprint")


@pytest.mark.parametrize(
    ("given", "stage", "text"),
    [
        ([], Stage.BACKEND, "the backend has not opened: the controller waited 120 s"),
        (UP_TO_JOIN[:1], Stage.NODES, "the backend has not listed its nodes: the controller waited 120 s"),
        (UP_TO_JOIN[:2], Stage.PLACES, "the backend has not started the agents: the controller waited 120 s"),
        (
            [*UP_TO_JOIN, Joins("east")],
            Stage.JOIN,
            "no first message of agents west: the controller waited 120 s (fault.deadlines.agents_join_s)",
        ),
        (
            [*UP_TO_READY, READY[0]],
            Stage.READY,
            "agents west have not imported what workers need: the controller waited 300 s "
            "(fault.deadlines.agents_ready_s)",
        ),
        (
            UP_TO_MODEL,
            Stage.MODEL,
            "east/0 has not ended its look at the model and the data: the controller waited 3600 s "
            "(fault.deadlines.inspection_s)",
        ),
        (
            [*UP_TO_MODEL, MODEL, printed("east/0", "a")],
            Stage.FINGERPRINTS,
            "no fingerprint of the devices of west/0: the controller waited 600 s (fault.deadlines.fingerprint_s)",
        ),
        (
            [*UP_TO_MODEL, MODEL, printed("east/0", "a"), printed("west/0", "a")],
            Stage.CHECKPOINT,
            "the search for a valid checkpoint has not ended: the controller waited 3600 s "
            "(fault.deadlines.find_checkpoint_s)",
        ),
    ],
)
def test_a_stage_that_takes_too_long_says_who_has_not_done_what(given: list[Any], stage: Stage, text: str) -> None:
    made = machine(takes_fingerprints=True).play(given)
    assert isinstance(made.state, Starting) and made.state.stage is stage
    made.play(Passes(4000.0))
    assert (made.outcome.state, str(made.outcome.error)) == ("FAILED", text)


@pytest.mark.parametrize("is_known", [True, False])
def test_an_agent_that_goes_before_it_is_ready_is_told_by_its_backends_words_where_they_come(is_known: bool) -> None:
    made = machine().play(BackendOpened("127.0.0.1"), NodesListed((NODE,)), AgentsPlaced(), Joins("east"))
    made.play(Joins("west")).clear().play(Passes(0.3), Leaves("west"))
    assert made.names() == ["AskWhoEnded"]  # at once
    made.play(AgentsEnded({}), Passes(0.3))
    assert made.names() == ["AskWhoEnded"] * 2 and isinstance(made.state, Starting)
    made.play(AgentsEnded({"west": "its process ended with status -9"} if is_known else {}))
    if not is_known:
        assert isinstance(made.state, Starting)
        made.play(Passes(0.8))
    why = "its process ended with status -9" if is_known else "its connection ended"
    assert str(made.outcome.error) == f"agent west on here: {why}"


def test_an_agent_that_has_ended_before_it_joined_is_named_alone_with_its_machine() -> None:
    made = machine().play(BackendOpened("127.0.0.1"), NodesListed((NODE,)), AgentsEnded({"west": "an old life"}))
    made.play(AgentsPlaced(), Passes(1.0)).clear().play(Joins("east"), Passes(0.5))
    assert made.names() == ["AdoptChannel east"]  # one question at a time
    made.play(AgentsEnded({}), Passes(0.3), Passes(0.3))
    assert made.names()[1:] == ["AskWhoEnded"]
    made.play(AgentsEnded({"west": "No module named 'dougong'"}))
    assert str(made.outcome.error) == "agent west on here (127.0.0.1): No module named 'dougong'"


def test_what_is_awaited_is_told_at_once_and_until_it_has_come() -> None:
    made = machine().play(BackendOpened("127.0.0.1"), NodesListed((NODE,)), Awaited("2 NPU"))
    assert made.event("waiting").text == made.facts.awaited == "2 NPU"
    assert made.play(AgentsPlaced()).facts.awaited == ""


# Room

NPUS = [{"name": "east", "accelerator": "npu", "workers": 2}, {"name": "west", "accelerator": "cpu", "workers": 1}]
FULL = replace(NODE, devices={"npu": 2}, free={"npu": 0}, holders=("`train.py` on 10.0.0.2 (2 NPU)",))
FREE = replace(FULL, free={"npu": 2}, holders=())
TOLD = (
    "island east asks for 2 npu workers, one device each, but none is free (here (127.0.0.1) has 2 npu, 0 free, held "
    "by `train.py` on 10.0.0.2 (2 NPU))"
)


def short(*nodes: Node, may_grow: bool = True, **limits: float) -> Machine:
    """A start whose nodes do not do for its two NPUs."""
    made = with_deadlines(machine(islands=NPUS), **limits)
    made.may_grow = may_grow
    return made.play(BackendOpened("127.0.0.1"), NodesListed(nodes))


def test_what_others_hold_is_told_at_once_and_taken_when_it_is_free() -> None:
    made = short(FULL)
    assert made.event("waiting").text == made.facts.awaited
    assert made.facts.awaited.startswith(TOLD) and made.facts.awaited.endswith("waits 60 s at most (--wait SECONDS)")
    made.clear().play(Passes(0.5), Passes(0.6))
    assert made.names() == ["SeekNodes"] and made.kinds() == []
    made.play(NodesListed((FULL,)), Passes(1.1), NodesListed((FREE,)))
    assert made.names() == ["SeekNodes", "SeekNodes", "StartAgents east west"] and made.kinds() == []
    assert made.play(AgentsPlaced()).facts.awaited == ""


def test_other_news_of_what_is_missing_are_told_and_the_wait_goes_on() -> None:
    made = short(FULL, room_s=10.0)
    half = replace(FULL, free={"npu": 1})
    for _ in range(4):
        made.play(Passes(2.0), NodesListed((half,)))
    assert [event.kind for event in made.events if event.kind == "waiting"] == ["waiting"] * 2
    made.play(Passes(2.0), NodesListed((half,)))
    assert made.outcome.status == 1
    assert str(made.outcome.error).endswith("; waited 10 s (--wait SECONDS)")


@pytest.mark.parametrize(("nodes", "may_grow"), [((FULL,), False), ((), True), ((NODE,), True)])
def test_what_cannot_come_is_refused_at_once_and_what_a_node_may_bring_soon(
    nodes: tuple[Node, ...], may_grow: bool
) -> None:
    made = short(*nodes, may_grow=may_grow)
    if may_grow:  # a node may be joining at this moment
        assert made.kinds() == ["state", "waiting"] or made.kinds() == ["waiting"]
        made.play(Passes(2.0), NodesListed(nodes), Passes(4.5), NodesListed(nodes))
        assert str(made.outcome.error).endswith("; waited 6 s (--wait SECONDS)")
    assert made.outcome.state == "FAILED" and "StartAgents east west" not in made.names()


def test_nothing_is_waited_for_where_the_user_said_so() -> None:
    made = short(FULL, room_s=0.0)
    assert made.kinds() == [] and str(made.outcome.error).endswith("; waited 0 s (--wait SECONDS)")


def test_a_stop_ends_the_wait() -> None:
    assert short(FULL).play(SignalReceived(2)).outcome.status == 130


def test_somebody_else_was_quicker_and_the_agents_are_laid_out_again() -> None:
    made = short(FREE).play(TaskFailed(NoRoomError("east: 2 NPU", is_held=True)))
    assert made.names() == ["ListNodes", "StartAgents east west", "GoOn", "SeekNodes"]
    made.play(NodesListed((FREE,)), AgentsPlaced())
    assert isinstance(made.state, Starting) and made.state.stage is Stage.JOIN
    # The limit counts from the first look.
    made = short(FREE, room_s=10.0).play(Passes(11.0), TaskFailed(NoRoomError("east: 2 NPU", is_held=True)))
    assert "waited 10 s" in str(made.play(NodesListed((FULL,))).outcome.error)


@pytest.mark.parametrize("may_grow", [True, False])
def test_what_is_listed_as_free_and_never_given_is_awaited_no_longer_than_what_others_hold(may_grow: bool) -> None:
    taken = TaskFailed(NoRoomError("east: 2 NPU", is_held=True))
    made = short(FREE, may_grow=may_grow, room_s=10.0)
    if may_grow:
        for _ in range(3):
            made.play(Passes(3.0), taken, NodesListed((FREE,)))
    made.play(Passes(3.0), taken)
    assert str(made.outcome.error) == "east: 2 NPU" + ("; waited 10 s (--wait SECONDS)" if may_grow else "")


def test_every_device_is_asked_and_judged() -> None:
    made = machine(takes_fingerprints=True).play(UP_TO_MODEL, MODEL)
    assert made.names()[-2:] == ["UseModel", "AskForFingerprints"]
    made.play(printed("east/0", "a"), Passes(3.0), printed("west/0", "a"))
    taken = made.event("fingerprints")
    assert set(taken.classes) == {"east/0", "east/1", "west/0"} and taken.seconds == 3.0
    assert made.facts.judged.kernels["roles"]["attention"] == list(set(taken.classes.values()))


def test_different_devices_end_the_run_after_what_was_found_is_recorded() -> None:
    made = machine(takes_fingerprints=True).play(UP_TO_MODEL, MODEL, printed("east/0", "a"), printed("west/0", "b"))
    assert made.kinds()[-1] == "fingerprints"
    assert "give different bits" in str(made.outcome.error)


def test_a_job_that_does_not_fit_is_the_users_mistake() -> None:
    made = machine(batch={"lanes": 2}).play(UP_TO_MODEL, MODEL)
    assert made.outcome.status == 2
    assert "each needs a lane" in str(made.outcome.error)


def test_a_state_that_no_memory_can_hold_is_refused_before_workers_start() -> None:
    large = TensorSpec("embed", (100_000_000,), True)  # 1.6 GB of state; each worker owns pieces of it
    found_it = worker("east/0", ModelFound(replace(INVENTORY, tensors=(large,)), {}), 0, "inspect")
    made = machine(takes_fingerprints=True, memory_bytes=10**9).play(UP_TO_MODEL, found_it)
    assert "AskForFingerprints" not in made.names()  # devices are not probed for it
    assert made.outcome.status == 2
    said = str(made.outcome.error)
    assert said.startswith(
        "the 3 workers on here need 9.63 GB (east/0 3.07 GB, east/1 3.09 GB, west/0 3.46 GB), and it has 1 GB: "
    )
    assert said.endswith("to run even so, set islands.east.memory_gb")
    assert machine(memory_bytes=10**10).play(UP_TO_MODEL, found_it).names()[-1] == "FindCheckpoint"


def test_agents_of_different_software_are_refused() -> None:
    made = machine().play(UP_TO_JOIN, Joins("east"))
    made.facts.agents["east"].facts.versions["torch"] = "1"  # type: ignore[union-attr]
    made.play(Joins("west"))
    assert "the nodes differ in torch" in str(made.outcome.error)


def test_agents_of_other_software_than_the_launching_machine_are_refused() -> None:
    made = machine()
    made.versions = {"torch": "2+cpu"}  # the agents say 2
    assert made.play(UP_TO_READY).state == Starting(Stage.READY, 0.0, 0.0)
    made = machine()
    made.versions = {"torch": "3"}
    assert "differ in torch" in str(made.play(UP_TO_READY).outcome.error)


def test_a_run_that_goes_on_without_a_record_of_its_beginning_is_told() -> None:
    made = machine()
    made.has_sources = False
    made.play(UP_TO_MODEL, MODEL)
    assert "warning" not in made.kinds()
    made = machine()
    made.has_sources, made.facts.number = False, 3
    assert "does not say what it had read" in made.play(UP_TO_MODEL, MODEL).event("warning").text


def test_only_an_agent_that_was_lost_is_started_and_probed_again() -> None:
    made = machine(takes_fingerprints=True).play(
        UP_TO_MODEL, MODEL, printed("east/0", "a"), printed("west/0", "a"), found(None)
    )
    made.clear().play(Leaves("west"), killed("east/0", "east/1"))
    assert isinstance(made.state, Recovering)
    made.play(NodesListed((NODE,)), AgentsPlaced(), Joins("west"), Says("west", AgentReady(3)))
    assert made.state.stage is Stage.FINGERPRINTS
    made.play(printed("west/0", "a"), found(5))
    assert made.names()[3:] == [
        "SeekNodes", "StartAgents west", "AdoptChannel west", "AskForFingerprints", "UseFingerprints", "FindCheckpoint",
        "ForkGeneration 2",
    ]  # fmt: skip
    assert made.states == ["RECOVERING", "RUNNING"]


def test_a_plan_is_laid_once() -> None:
    made = running().play(exits("east/1", -9), killed("east/0", "west/0"), found(5))
    assert "UsePlan" not in made.names()


def test_paths_are_tried_between_all_before_anybody_imports_and_judged_together() -> None:
    made = machine()
    made.paths_pass = False
    made.play(UP_TO_READY, READY)
    assert isinstance(made.state, Starting) and made.state.stage is Stage.PATHS
    assert made.asked_paths == {
        "east": ("west", CONTROLLER), "west": (CONTROLLER, "east"), CONTROLLER: ("east", "west"),
    }  # fmt: skip
    made.play(tried(1, "east", PathResult("west", 1, "silent")), tried(1, "west"), Passes(1.0))
    assert made.state.stage is Stage.PATHS  # what the others find belongs to the same error
    made.play(tried(1, CONTROLLER, PathResult("west", 1, "silent")))
    said = str(made.outcome.error)
    assert said.splitlines()[1].startswith("  west (address of west) is reached by nobody: port 1 did not answer")


def test_a_try_that_does_not_end_is_judged_by_what_is_known() -> None:
    made = machine()
    made.paths_pass = False
    made.play(UP_TO_READY, tried(1, "east", PathResult("west", 1, "too_large")), Passes(10.1))
    said = str(made.outcome.error).splitlines()
    assert said[1].startswith("  east (address of east, eth0, MTU 1500) to west (address of west, eth0, MTU 1500): a")
    assert said[-2:] == [
        "the controller has not said what it found", "west on west (address of west) has not said what it found",
    ]  # fmt: skip


def test_in_a_recovery_only_the_paths_of_those_that_are_new_are_tried() -> None:
    lost = [Leaves("west"), *killed("east/0", "east/1"), NodesListed((NODE,)), AgentsPlaced()]
    made = running().play(lost, Joins("west"))
    assert made.asked_paths == {"east": ("west",), "west": (CONTROLLER, "east"), CONTROLLER: ("west",)}
    assert made.facts.paths.number == 2


def with_forms(name: str, attention: str) -> Says:
    forms = {"attention": attention, "experts": "plain products"}
    found = Fingerprint({"adding": "a"}, "toy", {}, forms=forms)
    return worker(name, FingerprintFound(found.to_json()), 0, "fingerprint")


def test_attention_that_is_looked_for_is_settled_by_the_devices_and_belongs_to_the_run() -> None:
    sources = RunSources({}, "a.B", "d", attention=LOOKED_FOR)
    inventory = replace(INVENTORY, attention=("flash", "sdpa", "eager"))
    found_it = worker(
        "east/0", ModelFound(inventory, {}, {"attention": ["flash", "sdpa"]}, (), (), sources), 0, "inspect"
    )
    made = machine(takes_fingerprints=True).play(UP_TO_MODEL, found_it)
    assert made.facts.model is not None and not made.facts.model.sources.is_whole  # type: ignore[union-attr]
    made.play(with_forms("east/0", "sdpa"), with_forms("west/0", "sdpa"))
    settled = made.facts.model
    assert settled is not None and settled.sources is not None and settled.shapes is not None
    assert settled.sources.attention == "sdpa" and settled.shapes["attention"] == ("sdpa",)
    assert (settled.recipe.attention, settled.recipe.experts) == ("sdpa", "plain products")
    assert made.event("note").text == "attention is computed by sdpa, experts by plain products"
    assert made.names().index("UseModel") < made.names().index("UseFingerprints")


@pytest.mark.parametrize(
    ("held", "step", "in_memory", "pids"),
    [(None, 10, False, {}), (8, 10, False, {"east/1": 100}), (14, 14, True, {"east/1": 100})],
)
def test_a_start_goes_on_from_what_workers_of_an_earlier_controller_hold(
    held: int | None, step: int, in_memory: bool, pids: dict[str, int]
) -> None:
    """Workers themselves agree on the newest step that is whole; the checkpoint is given to them besides."""
    kept = {} if held is None else {"east/1": held}
    made = machine().play([*UP_TO_JOIN, Joins("east", kept=kept), Joins("west"), *READY, MODEL, found(10, _12="ab")])
    started = made.event("generation_started")
    assert (started.step, started.in_memory, started.resume) == (step, in_memory, "step-000010")
    assert made.facts.generation is not None
    assert {n: s.pid for n, s in made.facts.generation.workers.items() if s.pid is not None} == pids
    assert made.facts.recomputation.recorded.keys() == {12}
