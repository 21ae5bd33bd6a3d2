"""Where a run stands without its status.json."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointFailed, RunCreated, RunEnded
from dougong.records.rebuilt_status import known_status, rebuild_status
from dougong.records.status import RunStatus
from tests.leases import left
from tests.ui.recorded import Recorder, failed_run, finished_run, running_run


def words_of(status: RunStatus) -> tuple[str, str, int, int, int]:
    return status.job, status.state, status.generation, status.step, status.steps


@pytest.mark.parametrize("make", [finished_run, failed_run, running_run])
def test_a_status_is_rebuilt_from_the_other_files(make, tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    written, note = known_status(run)
    assert note == "" and run.read_status() == written
    run.status_file.unlink()
    rebuilt, note = known_status(run)
    assert words_of(rebuilt) == ("quickstart", written.state, written.generation, written.step, 60)
    assert note == f"{run.status_file} is gone; what is told here is what the run's other files say"


def test_a_rebuilt_status_says_that_the_run_is_not_saved(tmp_path: Path) -> None:
    run = running_run(tmp_path / "run")
    run.append_event(CheckpointFailed(generation=2, step=30, reason="disk full", newest=20))
    assert rebuild_status(run).unsaved == "no checkpoint since step 20: disk full"


def test_a_damaged_status_is_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    run.status_file.write_text("{")
    rebuilt, note = known_status(run)
    assert rebuilt.state == "FINISHED" and note.startswith(f"{run.status_file}: Invalid JSON")


def test_rows_of_an_earlier_generation_do_not_count(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.generation(1)
    recorder.train(1, 1, 29)
    recorder.generation(2, resume="step-000020", step=20)
    recorder.run.job_file.unlink()
    assert words_of(rebuild_status(recorder.run)) == ("quickstart", "RUNNING", 2, 20, 0)


def test_of_a_run_that_has_recorded_nothing_nothing_is_told(tmp_path: Path) -> None:
    assert known_status(RunDir.create(tmp_path / "run")) == (RunStatus(), "")


def test_the_status_of_a_controller_that_another_has_followed_is_not_the_runs(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    first, second = left(run), left(run)
    first.append_event(RunCreated(generation=1, job="toy"))
    first.write_status(RunStatus(job="toy", state="RUNNING", generation=1, step=9))
    assert known_status(run)[0].step == 9  # the second has begun nothing
    second.append_event(RunCreated(generation=2, job="toy"))
    second.append_event(RunEnded(kind="finished", generation=2, step=20))
    first.write_status(RunStatus(job="toy", state="RUNNING", generation=1, step=10))
    found, note = known_status(run)
    assert (found.state, found.step, found.generation, note) == ("FINISHED", 20, 2, "")
