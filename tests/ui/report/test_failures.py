"""Failures and controllers that died: how soon suspected, acted on and over, however it came out."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from dougong.ui.history import read_history
from dougong.ui.report.failures import failures
from dougong.ui.report.fault_row import Story
from tests.ui.recorded import failed_run, finished_run
from tests.ui.report.story import DIED, begun, named, rows


def test_a_drill_that_kills_has_its_times_steps_and_tier(tmp_path: Path) -> None:
    (row,) = failures(Story(read_history(finished_run(tmp_path / "run"))))
    assert (row.what, row.who, row.drill, row.look, row.outcome) == (
        "crash",
        "east/1",
        "kill",
        "fault",
        "trained again",
    )
    assert (row.suspected_s, row.acted_s) == (pytest.approx(0.004), pytest.approx(0.005))
    assert row.recovered_s == pytest.approx(0.836)
    assert (row.steps_lost, row.tier) == (9, "step-000020")


def test_two_faults_in_one_recovery_are_two_rows_that_end_together(tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    named(recorder)
    recorder.generation(2, None, 3)
    named(recorder, 2, 0.2)
    recorder.generation(3, None, 3)
    recorder.event("first_step", 3, 0.5, step=4)
    times = {"noticed_s": 0.0, "decided_s": 0.0, "left_s": 0.0, "begun_s": 0.1, "first_step_s": 0.5}
    for failed in (1, 2):
        recorder.event("recovered", 3, 0, failed=failed, step=3, **times)
    first, second = rows(recorder)
    assert (first.recovered_s, second.recovered_s) == (pytest.approx(0.76), pytest.approx(0.53))
    assert (first.outcome, second.outcome) == ("trained again", "trained again")
    assert (first.steps_lost, second.steps_lost) == (0, 0)


def test_a_fault_that_is_not_over_and_one_that_ended_the_run(tmp_path: Path) -> None:
    going = begun(tmp_path / "going")
    named(going)
    (row,) = rows(going)
    assert (row.outcome, row.look, row.recovered_s, row.tier) == ("not over yet", "open", None, "")
    assert row.decided == "restart the worker"
    going.event("decision", 1, 0, action="shrink", reason="nothing fits", again=True)
    assert rows(going)[0].decided == "restart the worker, then shrink"
    _, last = failures(Story(read_history(failed_run(tmp_path / "failed"))))
    assert (last.what, last.outcome, last.look) == ("exception", "the run ended by it", "open")


def test_a_fault_in_a_run_that_is_being_stopped_is_not_what_ended_it(tmp_path: Path) -> None:
    recorder = begun(tmp_path / "run")
    named(recorder)
    recorder.event("stopped", 1, 1.0, step=3)
    (row,) = rows(recorder)
    assert (row.outcome, row.look) == ("the run was being stopped", "fault")


def test_a_fault_that_was_met_by_a_stop_has_not_ended_a_run_that_then_failed(tmp_path: Path) -> None:
    """The decision alone says it: the last save of the stop was refused, so that the run has failed."""
    recorder = begun(tmp_path / "run")
    recorder.event("worker_died", 1, 0, **DIED)
    recorder.event("diagnosis", 1, 0, **DIED)
    recorder.event("decision", 1, 0, action="stop", reason="the run is being stopped")
    recorder.event("failed", 1, 1.0, step=3, cause="no checkpoint since step 2: full")
    (row,) = rows(recorder)
    assert (row.outcome, row.look, row.decided) == ("the run was being stopped", "fault", "stop")


@pytest.mark.parametrize("is_named", [True, False])
def test_a_controller_that_died_is_a_fault_whether_the_next_one_names_it_or_not(is_named: bool, tmp_path: Path) -> None:
    """Its clock may have begun anew: the time between is that of the walls."""
    recorder = begun(tmp_path / "run")
    recorder.event("drill", 1, worker="", step=4, action="kill_controller", by_command=True)
    later = recorder.seconds + 30
    recorder.run = RunDir(
        recorder.path,
        lambda: recorder.seconds - later + 5,
        lambda: datetime(2025, 11, 22, 9, 30, tzinfo=timezone.utc) + timedelta(seconds=recorder.seconds),
        fence=2,
    )
    recorder.event("created", 2, 30.0, job="quickstart")
    if is_named:
        culprit = {"kind": "controller", "name": "1", "node": "forge"}
        recorder.event("diagnosis", 1, 0, culprit=culprit, cause="SIGKILL", **{"class": "crash"})
    recorder.generation(2, "step-000002", 2)
    recorder.event("first_step", 2, 0.97, step=3)
    (row,) = rows(recorder)
    assert row.who == ("controller 1 on forge" if is_named else "controller")
    assert row.drill == "kill_controller", "and no row of its own says that nothing was named"
    assert [row.acted_s, row.recovered_s] == pytest.approx([30.0, 31.0], abs=0.01)
    assert (row.steps_lost, row.tier, row.outcome) == (1, "step-000002", "trained again")


def test_a_drill_that_was_done_to_another_than_the_named_one_says_to_whom(tmp_path: Path) -> None:
    """And the row's time of day is that of the fault, not that of its name."""
    recorder = begun(tmp_path / "run")
    fired = recorder.event("drill", 1, worker="east/0", step=4, action="stop")
    named(recorder, after_s=3.0)
    (row,) = rows(recorder)
    assert (row.who, row.drill) == ("east/1", "stop on east/0")
    assert row.wall == fired.wall.replace("Z", "+00:00")
