"""The table of faults: what belongs together is one row, and rows are in the order of their events."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.ui.history import read_history
from dougong.ui.report.faults import fault_rows
from tests.ui.recorded import running_run
from tests.ui.report.story import EAST, begun, named, rows


def test_a_hang_counts_from_the_beginning_of_what_was_suspected(tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    recorder.event("suspect", 1, 0.5, culprit=EAST, why="stopped", since_s=0.3, limit="3 s")
    other = {"kind": "worker", "name": "east/0"}
    recorder.event("suspect", 1, 0.1, culprit=other, why="stands still", since_s=0.4, limit="3 s")
    named(recorder, 1, 2.6, latency_s=3.0)
    recorder.generation(2, None, 3)
    recorder.event("state_restored", 2, 0.1, step=3)
    recorder.event("first_step", 2, 0.4, step=4)
    times = {"noticed_s": 0.0, "decided_s": 3.0, "left_s": 3.0, "begun_s": 3.0, "first_step_s": 3.5}
    recorder.event("recovered", 2, 0, failed=1, step=3, tiers={"own": 2048, "peer": 1024}, **times)
    (row,) = rows(recorder)
    assert [row.suspected_s, row.acted_s, row.recovered_s] == pytest.approx([0.3, 3.0, 3.53])
    assert row.tier == "own memory 2.0 KiB, a peer's memory 1.0 KiB"
    assert (row.steps_lost, row.also) == (0, "also suspected: east/0")


def test_those_who_are_suspected_together_are_one_row(tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    for name in ("east/1", "east/0"):
        culprit = {"kind": "worker", "name": name}
        recorder.event("suspect", 1, 0.1, culprit=culprit, why="stands still", since_s=0.7, limit="3 s")
    for name in ("east/1", "east/0"):
        recorder.event("suspect_cleared", 1, 0.1, culprit={"kind": "worker", "name": name}, seconds=1.1)
    recorder.event("suspect", 1, 60, culprit=EAST, why="stands still", since_s=0.7, limit="3 s")
    first, second = rows(recorder)
    assert (first.who, first.also) == ("east/1", "also suspected: east/0")
    assert (second.who, second.also) == ("east/1", "")


def test_a_run_without_a_fault_has_no_row(tmp_path: Path) -> None:
    assert rows(begun(tmp_path / "run")) == []
    assert [row.outcome for row in fault_rows(read_history(running_run(tmp_path / "other")))] == ["trained again"]
