"""What is looked at when agents have joined, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

from dougong.control.handshake import FolderTrouble, MachineLimits
from dougong.control.worker_messages import ModelFound
from dougong.launcher.controller.inbound.items import AgentsPlaced, NodesListed
from dougong.launcher.controller.looks import tell
from dougong.parallel.plan import TensorSpec
from dougong.remarks import Remarks
from tests.launcher.controller.machine import (
    INVENTORY,
    MODEL,
    NODE,
    UP_TO_JOIN,
    UP_TO_MODEL,
    UP_TO_READY,
    Joins,
    Leaves,
    found,
    killed,
    machine,
    running,
    worker,
)


def test_an_agent_that_does_not_share_the_run_directory_is_refused() -> None:
    made = machine()
    made.troubles["west"] = FolderTrouble("/run", "other")
    assert "here has another directory at /run" in str(made.play(UP_TO_READY).outcome.error)


def test_what_is_remarkable_about_the_machines_is_told_once_they_have_joined() -> None:
    made = machine().play(UP_TO_JOIN, Joins("east"))
    handle = made.facts.agents["east"]
    assert handle.facts is not None
    handle.facts, handle.clock_ahead_s = replace(handle.facts, limits=MachineLimits(cpus=1)), -7200.0
    made.play(Joins("west"))
    told = [event.text for event in made.events if event.kind == "note"]
    assert told[0].startswith("the clock of here is 2:00:00 behind")
    assert told[1] == "3 workers with 1 thread each on 1 CPU of here: they share them"


def test_a_node_with_less_memory_free_than_the_plan_needs_is_warned_of_when_the_plan_is_laid() -> None:
    large = TensorSpec("embed", (1_000_000,), True)
    found_it = worker("east/0", ModelFound(replace(INVENTORY, tensors=(large,)), {}), 0, "inspect")
    made = machine().play(UP_TO_MODEL)
    for handle in made.facts.agents.all:
        assert handle.facts is not None
        handle.facts = replace(handle.facts, limits=MachineLimits(free_memory_bytes=1 << 20))
    made.play(found_it, found())
    assert made.event("warning").text.startswith("here has 0.00105 GB of memory free now, and its workers need ")
    assert machine().play(UP_TO_MODEL, MODEL, found()).kinds().count("warning") == 0


def test_an_agent_that_a_recovery_starts_is_looked_at_alike() -> None:
    """It takes part nowhere before it shares the run directory; what is wrong with its node is told."""
    made = running().play(Leaves("west"), *killed("east/0", "east/1"))
    made.troubles["west"] = FolderTrouble("/run", "absent")
    made.play(NodesListed((NODE,)), AgentsPlaced(), Joins("west"), NodesListed((NODE,)))
    assert made.names().count("ForkGeneration 2") == 0
    assert "the run directory /run is not to be seen on here" in made.event("waiting").text


def test_remarks_are_events_of_the_newest_generation() -> None:
    made = machine()
    note, warning = tell(made.facts, Remarks(("a note",), ("a warning",)))
    assert (note.event.kind, warning.event.kind, warning.event.generation) == ("note", "warning", 0)
