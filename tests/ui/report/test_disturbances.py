"""Faults that ended no generation, with how long each lasted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.ui.report.story import EAST, begun, rows


def test_a_suspicion_that_was_taken_back_bears_its_drill(tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    recorder.event("drill", 1, worker="east/1", step=4, action="pause", for_s=1.0)
    recorder.event("suspect", 1, 0.3, culprit=EAST, why="stopped", since_s=0.3, limit="3 s")
    recorder.event("suspect_cleared", 1, 0.8, culprit=EAST, seconds=1.1)
    recorder.event("suspect", 1, 9.0, culprit=EAST, why="stopped", since_s=0.2, limit="3 s")
    first, second = rows(recorder)
    assert (first.drill, first.suspected_s, first.recovered_s) == ("pause", 0.3, 1.1)
    assert (first.outcome, first.acted_s) == ("went on by itself", None)
    assert (second.outcome, second.look) == ("not over yet", "open")


@pytest.mark.parametrize(("action", "outcome"), [("slow_cpu", "nothing came of it"), ("stop", "nothing was named")])
def test_a_drill_that_nobody_noticed_is_a_row(action: str, outcome: str, tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    recorder.event("drill", 1, worker="east/1", step=4, action=action)
    (row,) = rows(recorder)
    assert (row.drill, row.outcome) == (action, outcome)


def test_what_ends_nothing_is_told_with_how_long_it_lasted(tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    trouble = {"what": "the run's records", "reason": "no room"}
    recorder.event("storage_trouble", 1, **trouble, kept={"events": 3})
    recorder.event("storage_trouble", 1, **trouble, kept={"events": 9})
    recorder.event("storage_answers", 1, 5.0, what="the run's records", seconds=5.5)
    recorder.event("checkpoint_failed", 1, step=2, reason="no room")
    recorder.event("checkpoint_failed", 1, step=3, reason="no room")
    recorder.event("checkpoint_committed", 1, 2.0, step=4, directory="step-000004", bytes=1, seconds=0.1)
    recorder.event("ray", 1, part="head", is_lost=True, text="Ray's head does not answer")
    recorder.event("ray", 1, 7.0, part="head", is_lost=False, text="Ray's head answers")
    recorder.event(
        "diagnosis", 1, culprit={"kind": "fork_server", "name": "east"}, cause="SIGKILL", **{"class": "crash"}
    )
    recorder.event("decision", 1, 0, action="ignore", reason="another one forks")
    recorder.event("step_skipped", 1, step=5, loss=1.0, grad_norm=1.0, where="a gradient")
    told = [(row.what, row.who, row.outcome, row.look) for row in rows(recorder)]
    assert told == [
        ("storage", "controller", "the run's records can be written again, after 5.5 s; none is lost", "mild"),
        ("checkpoint not saved", "step 2", "saved again with step 4", "mild"),
        ("lost", "Ray's head", "training went on", "mild"),
        ("crash", "fork server of agent east", "nothing ended by it", "mild"),
        ("not finite", "step 5", "its update was left out", "mild"),
    ]
    assert [row.recovered_s for row in rows(recorder)[:3]] == pytest.approx([5.5, 2.05, 7.0])


def test_workers_that_the_run_went_on_without_and_spares_that_were_lost(tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    recorder.event("spare_lost", 1, agent="spare of east", node="node3", reason="its connection ended")
    recorder.event("spare_stands", 1, 4.0, agent="spare of east", node="node4")
    recorder.event("shrunk", 1, before=4, now=2, missing=["west/0", "west/1"], reason="no node fits")
    recorder.event("shrunk", 1, before=4, now=1, missing=["east/1", "west/0", "west/1"], reason="no node fits")
    recorder.event("grown", 1, 9.0, before=1, now=4, workers=["east/1", "west/0", "west/1"])
    recorder.event("shrunk", 1, before=4, now=3, missing=["west/1"], reason="no node fits")
    told = [(row.what, row.who, row.outcome) for row in rows(recorder)]
    assert told == [
        ("spare lost", "spare of east on node3", "spare of east on node4 stands by"),
        ("fewer workers", "east/1, west/0-1", "back to 4 workers"),
        ("fewer workers", "west/1", "not over yet"),
    ]
    assert [row.recovered_s for row in rows(recorder)] == [pytest.approx(4.0), pytest.approx(9.05), None]
