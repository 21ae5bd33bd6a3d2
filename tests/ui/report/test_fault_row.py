"""A row of the table, and what it is read from."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.fault.culprit import Culprit
from dougong.ui.history import read_history
from dougong.ui.report.fault_row import FaultRow, Story
from tests.ui.report.story import begun


def test_others_are_told_in_short() -> None:
    assert FaultRow(0, 0.0, "", "hang", "east/0").also == ""
    assert FaultRow(0, 0.0, "", "hang", "east/0", others=("west/0", "west/1")).also == "also suspected: west/0-1"


@pytest.mark.parametrize("between", [[], ["created"], ["created", "created"], ["stopped", "created"]])
def test_a_drill_on_the_controller_is_of_the_one_before_the_next(between: list[str], tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    recorder.event("drill", 1, worker="", step=4, action="stop_controller")
    for kind in between:
        recorder.event(kind, 2, **({"job": "quickstart"} if kind == "created" else {"step": 3}))
    story = Story(read_history(recorder.run))
    known = story.drill_on(Culprit("controller", "1"), len(story.events))
    assert known == ("stop_controller" if len(between) < 2 else "")
    assert story.drill_on(Culprit("worker", "east/1"), len(story.events)) == ""


@pytest.mark.parametrize(
    ("culprit", "drill"),
    [
        (Culprit("worker", "east/1"), "stop"),
        (Culprit("worker", "east/0"), ""),
        (Culprit("agent", "east"), "stop"),
        (Culprit("agent", "east-2"), "stop"),
        (Culprit("agent", "eastern"), ""),
    ],
)
def test_a_drill_is_of_its_worker_and_of_that_workers_agent(culprit: Culprit, drill: str, tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    recorder.event("drill", 1, worker="east/1", step=4, action="stop")
    story = Story(read_history(recorder.run))
    assert story.drill_on(culprit, len(story.events)) == drill
    assert bool(story.told) is bool(drill)
