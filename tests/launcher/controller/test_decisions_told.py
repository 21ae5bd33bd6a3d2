"""What is told as decided: class of failure x what went before x what there is, through all decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import pytest
from dougong.accelerators.telemetry.reading import DeviceReading
from dougong.accelerators.telemetry.xid import xid
from dougong.control.messages import AgentFailed, AgentReady, DevicesRead, ForkServerReplaced, Heartbeat
from dougong.control.path_messages import CONTROLLER, Hearing
from dougong.control.progress import WorkerProgress, WorkerSigns
from dougong.control.worker_messages import StepRepeated, UpdateSkipped, WorkerLeft
from dougong.fault.replacement import Measure
from dougong.launcher.controller.inbound.items import (
    AgentsPlaced,
    BackendOpened,
    MachineTried,
    NodesListed,
    ReserveBegun,
    ReserveSeen,
    SignalReceived,
)
from dougong.planner.nodes import Node
from tests.launcher.controller.machine import (
    MODEL,
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
    raises,
    step,
    with_deadlines,
    worker,
)

SPARE = "west-spare-1"


def node(number: int, devices: int = 1) -> Node:
    keys = tuple(f"GPU-{number}{device}" for device in range(devices))
    label = {"pool": "a" if number == 0 else "b"}
    return Node(f"id-{number}", f"node{number}", f"10.0.0.{number}", {"cuda": devices}, label, keys={"cuda": keys})


EAST, OWN, OTHER, LARGE = node(0, 2), node(1), node(2), node(1, 2)
"""Of the attention's workers, of west's, and another one; LARGE: west's, with a device more."""


def comes(agent: str, node: str) -> list[Step]:
    return [Joins(agent, node), Says(agent, AgentReady(3))]


def trained(*nodes: Node, spare: str = "", apart: bool = False, node_return_s: float = 600.0, **fault: Any) -> Machine:
    """Generation 1, two steps old, of east on node0 and west on node1. `spare`: where an agent stands by."""
    east: dict[str, Any] = {"name": "east", "accelerator": "cuda", "workers": 2, "node": "pool=a"}
    west: dict[str, Any] = {"name": "west", "accelerator": "cuda", "workers": 1, "node": "pool=b"}
    if spare:
        west["spares"] = 1
    if apart:
        east["role"], west["role"] = "attention", "experts"
    made = with_deadlines(machine(islands=[east, west], fault=fault), node_return_s=node_return_s)
    made.may_grow = True
    made.play(BackendOpened("10.0.0.1"), NodesListed(nodes), AgentsPlaced())
    made.play(comes("east", "node0"), comes("west", "node1"), MODEL, found(), told())
    return made.play(comes(SPARE, spare) if spare else [], step(1), step(2)).clear()


def told(*codes: int) -> Says:
    reading = DeviceReading(0, "GPU-10", tuple(xid(code) for code in codes))
    return Says("west", DevicesRead({"cuda:0": reading}))


def leave(generation: int = 1) -> list[Step]:
    return [worker(name, WorkerLeft(2), generation) for name in ("east/0", "east/1")]


def goes_dark() -> list[Step]:
    """West's machine is gone: it takes no connection, nobody hears it, and the others stand still."""
    steps: list[Step] = [Passes(0.5, silent=("west",)), MachineTried("west", False)]
    for still_s in (0.8, 1.6, 2.4, 3.2, 4.0):
        signs = {name: WorkerSigns("S", still_s, still_s) for name in ("east/0", "east/1")}
        progress = {name: WorkerProgress(6, 9, "forward", 0, 6, 1 << 2) for name in signs}
        steps.append(Says("east", Heartbeat(1, 6, progress, signs, Hearing((CONTROLLER,), {"west": still_s}))))
        steps.append(Passes(0.8, silent=("west",)))
    return [*steps, *leave()]


CRASH: list[Step] = [exits("west/0", -9), *leave()]
AGENT: list[Step] = [Leaves("west"), *leave()]
SIGINT = SignalReceived(2)
TAKEN = Says("west", AgentFailed("SIGTERM: this machine is taken from the run", is_preempted=True))
MACHINE: list[Step] = goes_dark()
STORAGE: list[Step] = [raises("west/0", "StorageError", "CheckpointError"), exits("west/0", 1), *leave()]
BROKEN: list[Step] = [told(79), Passes(0.5), *leave(), *killed("west/0")]
HERE: list[Step] = [NodesListed((EAST, OWN))]
MOVED: list[Step] = [NodesListed((EAST, OTHER))]
NONE: list[Step] = [NodesListed((EAST,))]
LATE: list[Step] = [*NONE, Passes(3.0), *NONE, Passes(3.0), *NONE]
BACK: list[Step] = [found(0), step(3, 2), Passes(6.0), ReserveSeen((EAST, OTHER), {}), ReserveBegun((SPARE,))]
NOT_FINITE = worker("east/0", UpdateSkipped(3, 1.0, 2.0, "a loss", 1, 0, 7, (3,), times=2))
BOTH = (EAST, OWN)

TABLE: list[tuple[str, Callable[[], Machine], Sequence[Step], list[str]]] = [
    ("a worker", partial(trained, *BOTH), CRASH, ["restart"]),
    ("a worker, twice", partial(trained, *BOTH, max_restarts=1), [*CRASH, exits("west/0", -9, 2)], ["restart", "fail"]),
    ("a worker, as the job has it", partial(trained, *BOTH, actions={"crash": "roll_back"}), CRASH, ["roll_back"]),
    ("a worker, as the run is stopped", partial(trained, *BOTH), [SIGINT, *CRASH], ["stop"]),
    ("a mistake, as the run is stopped", partial(trained, *BOTH),
     [SIGINT, raises("west/0", "ModelError"), exits("west/0", 1)], ["fail"]),
    ("a machine that is taken", partial(trained, *BOTH), [TAKEN, *leave(), *MOVED], ["replace_node"]),
    ("an agent and its node", partial(trained, *BOTH), [*AGENT, *HERE], ["restart"]),
    ("an agent, and another node", partial(trained, *BOTH), [*AGENT, *MOVED], ["restart", "replace_node"]),
    ("a spare elsewhere", partial(trained, *BOTH, OTHER, spare="node2"), AGENT, ["replace_by_spare"]),
    ("a spare on that node", partial(trained, EAST, LARGE, spare="node1"), AGENT, ["replace_by_spare"]),
    ("a machine, and another one", partial(trained, *BOTH), [*MACHINE, *MOVED], ["replace_node"]),
    ("a machine, and a spare", partial(trained, *BOTH, OTHER, spare="node2"), MACHINE, ["replace_by_spare"]),
    ("a machine that is there again", partial(trained, *BOTH), [*MACHINE, *HERE], ["replace_node", "restart"]),
    ("a machine, and none", partial(trained, *BOTH), [*MACHINE, *NONE], ["replace_node"]),
    ("none for long", partial(trained, *BOTH, node_return_s=5), [*MACHINE, *LATE], ["replace_node", "shrink"]),
    ("none for long, no fewer", partial(trained, *BOTH, apart=True, node_return_s=5), [*MACHINE, *LATE],
     ["replace_node", "fail"]),
    ("none, shrink", partial(trained, *BOTH, without_spare="shrink"), [*MACHINE, *NONE], ["replace_node", "shrink"]),
    ("none, no fewer", partial(trained, *BOTH, apart=True, without_spare="shrink"), [*MACHINE, *NONE],
     ["replace_node"]),
    ("none, stop", partial(trained, *BOTH, without_spare="stop"), [*MACHINE, *NONE], ["replace_node", "fail"]),
    ("a node comes back", partial(trained, *BOTH, without_spare="shrink"),
     [*MACHINE, *NONE, *BACK, *comes(SPARE, "node2")], ["replace_node", "shrink", "grow_back"]),
    ("a device", partial(trained, EAST, LARGE), [*BROKEN, NodesListed((EAST, LARGE))], ["quarantine", "restart"]),
    ("a device, and a spare", partial(trained, *BOTH, OTHER, spare="node2"), BROKEN,
     ["quarantine", "replace_by_spare"]),
    ("storage", partial(trained, *BOTH), STORAGE, ["wait_for_storage"]),
    ("a fork server", partial(trained, *BOTH), [Says("west", ForkServerReplaced("it has ended", 7))], ["ignore"]),
    ("a NaN", partial(trained, *BOTH), [worker("east/0", StepRepeated(3, "a gradient"))], ["retry_step"]),
    ("a NaN that comes again", partial(trained, *BOTH), [NOT_FINITE], ["skip_batch"]),
    ("a mistake", partial(trained, *BOTH), [raises("west/0", "ModelError"), exits("west/0", 1)], ["fail"]),
]  # fmt: skip


@pytest.mark.parametrize(("begun", "steps", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_decided_is_told_by_its_name(
    begun: Callable[[], Machine], steps: Sequence[Step], expected: list[str]
) -> None:
    made = begun().play(list(steps))
    decisions = [event for event in made.events if event.kind == "decision"]
    assert [event.action for event in decisions] == expected
    assert all(event.reason for event in decisions)


def test_an_agent_that_becomes_two_on_its_own_machine_is_begun_anew_there() -> None:
    """Of three devices in a row the middle one is given up: the others are no longer side by side."""
    east = {"name": "east", "accelerator": "cuda", "workers": 2}
    here = node(1, 3)
    made = machine(islands=[east])
    made.play(BackendOpened("10.0.0.1"), NodesListed((here,)), AgentsPlaced())
    reading = Says("east", DevicesRead({"cuda:1": DeviceReading(1, "GPU-11", ())}))
    made.play(comes("east", "node1"), MODEL, found(), reading, step(1), step(2)).clear()
    lost = Says("east", DevicesRead({"cuda:1": DeviceReading(1, "GPU-11", (xid(79),))}))
    left = [worker("east/0", WorkerLeft(2), 1), *killed("east/1")]
    made.play(lost, Passes(0.5), left, NodesListed((here,)))
    told = [event for event in made.events if event.kind == "decision"]
    assert [event.action for event in told] == ["quarantine", "restart"]
    assert told[-1].reason == "there is room on node1"
    assert {handle.spec.name for handle in made.facts.agents.all} == {"east-0", "east-1"}


def test_the_table_goes_through_all_decisions() -> None:
    seen = {action for row in TABLE for action in row[3]}
    assert seen == set(get_args(Measure))


def test_reasons_say_how_many_recoveries_there_may_be_and_who_stands_by() -> None:
    made = trained(*BOTH, OTHER, spare="node2").play(AGENT)
    assert made.event("decision").reason == "recovery 1 of 3; standing by: west-spare-1 on node2"
    made = trained(*BOTH).play(AGENT, [NodesListed((EAST, replace(OWN, id="another-id"), OTHER))])
    assert made.event("decision").reason == "recovery 1 of 3; nobody stands by, so that its agent is started anew"
    made = trained(*BOTH).play(AGENT, MOVED)
    assert (made.events[-1].reason, made.events[-1].again) == ("there is room on node2", True)
