"""Devices that tell of faults: what is suspected, who has failed, and which device a run uses no more."""

from __future__ import annotations

from typing import Any

from dougong.accelerators.telemetry.reading import DeviceReading
from dougong.accelerators.telemetry.xid import xid
from dougong.control.messages import AgentReady, DevicesRead, Heartbeat
from dougong.control.progress import WorkerProgress, WorkerSigns
from dougong.control.worker_messages import StepRepeated, UpdateSkipped, WorkerLeft, WorkerRaised
from dougong.errors import NoRoomError
from dougong.fault.culprit import Culprit
from dougong.fault.quarantine import Quarantine, QuarantinedDevice
from dougong.launcher.controller.actions import ForkGeneration, StartAgents
from dougong.launcher.controller.inbound.items import AgentsPlaced, BackendOpened, NodesListed
from dougong.launcher.controller.states import Recovering, Running, Stage
from dougong.planner.nodes import Node
from tests.launcher.controller.machine import (
    MODEL,
    Joins,
    Machine,
    Passes,
    Says,
    Step,
    exits,
    found,
    killed,
    machine,
    raises,
    step,
    worker,
)

ISLANDS = [
    {"name": "east", "accelerator": "cuda", "workers": 2},
    {"name": "west", "accelerator": "cuda", "workers": 1},
]
GPU = Culprit("device", "GPU-2")


def node(count: int = 4) -> Node:
    keys = tuple(f"GPU-{number}" for number in range(count))
    return Node("local-machine", "here", "127.0.0.1", {"cuda": count}, keys={"cuda": keys})


def told(*codes: int, **more: Any) -> Says:
    """West's agent reads its device, the third one of the machine."""
    return Says("west", DevicesRead({"cuda:2": DeviceReading(2, "GPU-2", tuple(xid(code) for code in codes), **more)}))


def beats(agent: str, *names: str) -> Says:
    progress = {name: WorkerProgress(7, 1, "forward", 3) for name in names}
    return Says(agent, Heartbeat(1, 1, progress, {name: WorkerSigns("R") for name in names}))


def trained(count: int = 4, **fault: Any) -> Machine:
    """Generation 1 on one machine of so many devices, of which three are used."""
    made = machine(islands=ISLANDS, fault=fault)
    made.play(BackendOpened("127.0.0.1"), NodesListed((node(count),)), AgentsPlaced(), Joins("east"), Joins("west"))
    made.play(Says("east", AgentReady(1)), Says("west", AgentReady(2)), MODEL, found(), told(), step(1))
    assert made.state == Running(1)
    return made.clear()


def leave(*names: str) -> list[Step]:
    return [worker(name, WorkerLeft(1)) for name in names]


def test_a_device_that_nobody_can_use_has_failed_at_once_and_is_used_no_more() -> None:
    made = trained().play(told(79, temperature_c=70), Passes(0.5))
    diagnosis, decision, aside = made.event("diagnosis"), made.event("decision"), made.event("device_quarantined")
    assert (diagnosis.culprit, diagnosis.failure, diagnosis.cause) == (GPU, "device", str(xid(79)))
    assert diagnosis.evidence == ("west/0 computes on it",) and diagnosis.worker == ""
    assert (decision.action, decision.reason) == ("quarantine", "recovery 1 of 3")
    assert aside.device == QuarantinedDevice("cuda", "GPU-2", "here", str(xid(79)))
    assert made.facts.devices.quarantine.on("here", "cuda") == ("GPU-2",)
    made.clear().play(leave("east/0", "east/1"), killed("west/0"))
    assert made.names()[:2] == ["LoseAgent west", "DropAgent west"], "when its workers have left, and not before"
    made.play(NodesListed((node(),)))
    (started,) = [action for action in made.actions if isinstance(action, StartAgents)]
    assert [(spec.name, spec.first_device) for spec in started.specs] == [("west", 3)]
    assert [spec.first_device for spec in started.layout] == [0, 3], "east keeps its devices, and its agent"


def test_the_next_generation_is_not_troubled_by_it_again() -> None:
    made = trained().play(told(79), Passes(0.5), leave("east/0", "east/1"), killed("west/0"), NodesListed((node(),)))
    made.play(AgentsPlaced(), Joins("west"), Says("west", AgentReady(3)))
    assert made.state == Running(2)
    third = DevicesRead({"cuda:3": DeviceReading(3, "GPU-3")})
    made.clear().play(Says("west", third), Passes(1.0))
    assert made.state == Running(2) and made.kinds() == []


def test_the_only_machine_has_no_device_left() -> None:
    made = trained(3).play(told(79), Passes(0.5), leave("east/0", "east/1"), killed("west/0"), NodesListed((node(3),)))
    error = str(made.outcome.error)
    assert "GPU-2: device: Xid 79" in error
    assert "here (127.0.0.1) has 3 cuda, 1 in quarantine, 0 free" in error
    assert "`dougong resume` with -o 'fault.quarantine.lift=[GPU-2]' uses devices again that have been mended" in error


def test_elsewhere_a_node_is_awaited() -> None:
    made = trained(3)
    made.may_grow = True
    made.play(told(79), Passes(0.5), leave("east/0", "east/1"), killed("west/0"), NodesListed((node(3),)))
    assert isinstance(made.state, Recovering) and made.state.stage is Stage.ROOM
    assert "1 in quarantine" in made.event("waiting").text


def test_steps_that_were_left_out_are_left_out_by_every_later_generation() -> None:
    made = trained()
    made.play(worker("east/0", UpdateSkipped(1, 1.0, 2.0, "a loss", 1, 0, 7, (3,), times=2)))
    assert [(event.kind, getattr(event, "action", "")) for event in made.events] == [
        ("decision", "skip_batch"), ("step_skipped", ""),
    ]  # fmt: skip
    assert made.event("step_skipped").windows == (3,) and made.event("step_skipped").last_sample == 7
    made.play(worker("east/0", StepRepeated(2, "a gradient")))
    assert made.events[-1].reason == "step 2 was not finite (a gradient); computed once more it is"
    made.play(exits("west/0", -9), leave("east/0", "east/1"))
    (fork,) = [action for action in made.actions if isinstance(action, ForkGeneration)]
    assert (fork.skips, fork.rolls_back, fork.in_memory) == ((1,), False, True)


def test_numbers_that_nobody_has_computed_are_not_gone_on_from() -> None:
    """What workers hold in memory may be as wrong; the checkpoint's digests are its own."""
    made = trained(actions={"crash": "roll_back"}).play(exits("west/0", -9), leave("east/0", "east/1"), found(None))
    assert made.event("decision").action == "roll_back"
    (fork,) = [action for action in made.actions if isinstance(action, ForkGeneration)]
    assert (fork.rolls_back, fork.in_memory) == (True, False)


def test_storage_that_fails_again_is_given_time() -> None:
    """No generation begins before the pause is over."""
    made = trained()
    for number, pause_s in ((1, 0.0), (2, 2.0)):
        made.clear().play(raises("west/0", "StorageError", "CheckpointError", generation=number))
        made.play([worker(name, WorkerLeft(1), number) for name in ("east/0", "east/1")])
        made.play(exits("west/0", 1, number))
        begins_at = made.now + pause_s
        made.play(Passes(pause_s / 2), found(None))
        assert (made.state == Running(number + 1)) is (made.now >= begins_at)
        made.play(Passes(pause_s), found(None))
        assert made.state == Running(number + 1)
        assert made.event("decision").action == "wait_for_storage"


def test_a_worker_that_fails_after_its_device_has_told_of_a_fault() -> None:
    made = trained().play(beats("west", "west/0"), told(94), Passes(0.5))
    suspect = made.event("suspect")
    assert (suspect.culprit, suspect.limit) == (GPU, "a failure of west/0")
    assert made.state == Running(1), "who goes on is let alone"
    made.clear().play(raises("west/0", "AcceleratorError", "RuntimeError"), told(), Passes(0.5))
    diagnosis = made.event("diagnosis")
    assert (diagnosis.culprit, diagnosis.failure) == (GPU, "device")
    assert diagnosis.cause.endswith("; west/0 ended of it: AcceleratorError: x")
    assert made.event("decision").action == "restart", "the second time it is given up"
    assert "device_quarantined" not in made.kinds()


def test_a_device_that_fails_for_the_second_time_is_given_up() -> None:
    made = trained().play(told(94), exits("west/0", -9), Passes(0.5), leave("east/0", "east/1"))
    assert made.state == Running(2)
    made.clear().play(told(94), exits("west/0", -9, 2), Passes(0.5))
    assert made.event("decision").action == "quarantine"
    assert made.event("device_quarantined").key == "GPU-2"


def corrupted(*accused: str, generation: int = 1) -> Says:
    error = WorkerRaised("CorruptionError", ("CorruptionError", "DougongError"), "step 7: ...", accused=accused)
    return worker(accused[-1], error, generation)


def test_a_device_whose_numbers_are_wrong_for_the_second_time_is_given_up() -> None:
    made = trained().play(told(), corrupted("west/0"), leave("east/0", "east/1"), exits("west/0", 1), found(None))
    assert (made.event("diagnosis").culprit, made.event("diagnosis").failure) == (GPU, "corruption")
    assert made.event("decision").action == "restart" and made.state == Running(2)
    made.clear().play(told(), corrupted("west/0", generation=2))
    assert made.event("decision").action == "quarantine"
    assert made.event("device_quarantined").key == "GPU-2"


def test_of_numbers_that_change_between_two_nobody_is_held_for_bad() -> None:
    made = trained().play(told(), corrupted("east/0", "west/0"))
    assert made.event("diagnosis").culprit == Culprit("link", "east/0 and west/0")
    assert made.event("decision").action == "restart"


def test_the_word_of_a_device_is_awaited_before_its_worker_is_named() -> None:
    """The driver says why a moment after its library has raised."""
    made = trained().play(Passes(0.5), raises("west/0", "AcceleratorError", "RuntimeError"))
    assert made.kinds() == [] and made.state == Running(1)
    made.play(Passes(0.2), told(95))
    assert (made.event("diagnosis").culprit, made.event("decision").action) == (GPU, "quarantine")


def test_a_device_that_has_nothing_to_say_keeps_nobody_waiting() -> None:
    made = trained().play(Passes(0.5), raises("west/0", "AcceleratorError", "RuntimeError"), Passes(2.0))
    assert made.event("diagnosis").culprit == Culprit("worker", "west/0")
    made = trained().play(Passes(0.5), raises("west/0", "ValueError"))
    assert made.event("diagnosis").culprit == Culprit("worker", "west/0"), "that is no device's doing"


def test_a_device_that_is_slowed_down_is_told_and_nothing_is_done() -> None:
    made = trained()
    for _ in range(9):
        made.play(told(throttling=("thermal",), temperature_c=92), beats("west", "west/0"), Passes(1.0))
    suspect = made.event("suspect")
    assert (suspect.why, suspect.limit, suspect.evidence[-1]) == ("runs slower, as it is too hot", "", "92 C")
    made.play(told(), Passes(0.5))
    assert made.event("suspect_cleared").culprit == GPU and made.state == Running(1)


def test_why_devices_say_nothing_is_told_once() -> None:
    problem = Says("west", DevicesRead(problem="nothing from its driver for 10 s"))
    made = trained().play(problem, problem, told(31))
    text = "agent west: how its devices are is not known: nothing from its driver for 10 s"
    assert made.event("warning").text == text
    assert made.event("note").text.startswith("device GPU-2 (west/0): Xid 31 (")
    assert made.state == Running(1)


def test_a_run_that_ends_gives_its_device_up_too() -> None:
    made = trained(max_restarts=0).play(told(79), Passes(0.5))
    assert made.event("decision").action == "fail" and made.event("device_quarantined").key == "GPU-2"


def test_a_start_leaves_out_what_an_earlier_life_has_given_up() -> None:
    made = machine(islands=ISLANDS)
    made.facts.devices.quarantine = Quarantine.of([QuarantinedDevice("cuda", "GPU-1", "here", "Xid 79")])
    made.play(BackendOpened("127.0.0.1"), NodesListed((node(),)))
    (started,) = [action for action in made.actions if isinstance(action, StartAgents)]
    places = {spec.name: (spec.workers, spec.first_device) for spec in started.specs}
    assert places == {"east-0": (("east/0",), 0), "east-1": (("east/1",), 2), "west": (("west/0",), 3)}
    refused = machine(islands=ISLANDS)
    refused.facts.devices.quarantine = made.facts.devices.quarantine
    refused.play(BackendOpened("127.0.0.1"), NodesListed((node(3),)))
    assert isinstance(refused.outcome.error, NoRoomError)


def test_the_job_may_say_otherwise() -> None:
    """What a device has told counts once."""
    made = trained(actions={"device": "restart"}).play(told(79), Passes(0.5))
    assert made.event("decision").action == "restart" and "device_quarantined" not in made.kinds()
    made.play(leave("east/0", "east/1"), killed("west/0"), told(), Passes(1.0))
    assert made.state == Running(2)
    made = trained(actions={"device": "fail"}).play(told(79), Passes(0.5))
    assert made.event("decision").reason == "fault.actions.device is fail"


def test_what_a_device_has_told_explains_one_failure_and_not_the_next() -> None:
    made = trained().play(told(94), exits("west/0", -9), Passes(0.5), leave("east/0", "east/1"))
    made.clear().play(told(), exits("west/0", -9, 2), Passes(0.5))
    assert made.event("diagnosis").culprit == Culprit("worker", "west/0")


def test_an_agent_that_stands_by_with_a_broken_device_is_let_go() -> None:
    islands = [{**ISLANDS[0]}, {**ISLANDS[1], "spares": 1}]
    made = machine(islands=islands).play(BackendOpened("127.0.0.1"), NodesListed((node(5),)))
    (started,) = [action for action in made.actions if isinstance(action, StartAgents)]
    (spare,) = [spec for spec in started.specs if spec.stands_by]
    made.play(AgentsPlaced(), [Joins(spec.name) for spec in started.specs])
    made.play([Says(spec.name, AgentReady(1)) for spec in started.specs], MODEL, found(), step(1)).clear()
    key, others = f"GPU-{spare.first_device}", DeviceReading(0, "GPU-0", (xid(79),))
    broken = DeviceReading(spare.first_device, key, (xid(79),))
    made.play(Says(spare.name, DevicesRead({f"cuda:{spare.first_device}": broken, "cuda:0": others})))
    assert made.event("device_quarantined").key == key, "what others compute on is theirs to tell"
    assert made.event("spare_lost").agent == spare.name and made.state == Running(1)
