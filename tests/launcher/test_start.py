"""The same words begin a run, go on with it, and leave it alone when it is done."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.errors import AliveError, JobError, LaunchError
from dougong.job.load import load_job
from dougong.launcher.run import Options, start_run
from dougong.launcher.start import go_on, goes_on
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted
from tests.checkpoint.saving import bare_checkpoint
from tests.launcher.toyrun import ToyRun, toy_job
from tests.leases import held, left

LOCAL = Options(ray=False)


def test_the_same_line_begins_goes_on_and_is_done(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.1)).start("start")
    run.await_step(6)
    with pytest.raises(AliveError, match=r"is alive \(controller process \d+ on .*; `dougong stop"):
        start_run(load_job(run.path.with_suffix(".yaml")), run.path, LOCAL)  # a second one at once
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.finish() == 128 + signal.SIGTERM, run.text()
    stopped_at = run.run_dir.read_metrics()[-1]["step"]

    # What a scheduler says when it has machines again; the job file may ask for other machines by now.
    run.job["islands"][0]["workers"] = 1
    assert run.start("start").finish() == 0, run.text()
    rows = run.run_dir.read_metrics()
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert {row["generation"] for row in rows if row["step"] > stopped_at} == {2}
    assert "workers: 1" in run.run_dir.read_job()

    events = run.run_dir.read_events()
    assert run.start("start").finish() == 0, run.text()
    assert run.run_dir.read_events() == events  # nothing has happened


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run that has come to step 10 of 20."""
    run = RunDir.create(tmp_path / "run")
    run.write_job(yaml.safe_dump(toy_job()))
    bare_checkpoint(run.checkpoints, 10)
    run.append_event(CheckpointCommitted(generation=1, step=10, directory="step-000010", num_bytes=1, seconds=0.1))
    return run


def given(folder: Path, **changes: Any) -> Any:
    file = folder / "given.yaml"
    file.write_text(yaml.safe_dump(toy_job(**changes)))
    return load_job(file)


def test_only_a_run_that_has_committed_is_gone_on_with(run_dir: RunDir, tmp_path: Path) -> None:
    assert goes_on(run_dir.path)
    shutil.rmtree(run_dir.checkpoints / "step-000010")
    assert goes_on(run_dir.path)  # its storage may be away: nobody begins anew by himself
    assert not goes_on(tmp_path / "new")
    assert not goes_on(RunDir.create(tmp_path / "began").path)


def test_what_is_done_is_done(run_dir: RunDir, tmp_path: Path) -> None:
    assert go_on(given(tmp_path, steps=10), run_dir.path, LOCAL, takes_over=False) is None
    assert go_on(given(tmp_path, steps=4), run_dir.path, LOCAL, takes_over=False) is None


def test_another_job_is_refused_by_its_keys(run_dir: RunDir, tmp_path: Path) -> None:
    before = run_dir.read_job()
    with pytest.raises(JobError) as caught:
        go_on(given(tmp_path, seed=7), run_dir.path, LOCAL, takes_over=False)
    told, path = str(caught.value), run_dir.path
    assert told.startswith("seed: 0 then, 7 now: this run has computed with the former")
    assert told.endswith(
        f"`dougong resume {path}` goes on with the run in {path}, another --run-dir is for another run"
    )
    assert run_dir.read_job() == before


def test_a_job_that_no_machine_can_take_is_refused_as_by_resume(run_dir: RunDir, tmp_path: Path) -> None:
    pinned = [{"name": "east", "accelerator": "cpu", "workers": 2, "node": "nowhere"}]
    with pytest.raises(LaunchError, match="pinned to node 'nowhere'"):
        go_on(given(tmp_path, islands=pinned), run_dir.path, LOCAL, takes_over=False)


def test_of_two_at_once_one_wins(run_dir: RunDir, tmp_path: Path) -> None:
    with held(run_dir), pytest.raises(AliveError, match="is alive") as caught:
        go_on(given(tmp_path), run_dir.path, LOCAL, takes_over=False)
    assert caught.value.exit_status == 3
    new = tmp_path / "new"
    new.mkdir()
    with held(RunDir(new)), pytest.raises(AliveError, match="is alive"):
        start_run(given(tmp_path), new, LOCAL)


def test_another_machines_controller_is_replaced_at_once_by_a_persons_word(run_dir: RunDir, tmp_path: Path) -> None:
    left(run_dir, machine="node9")  # its lease has yet to run out
    assert go_on(given(tmp_path, steps=10), run_dir.path, LOCAL, takes_over=True) is None
    began = RunDir.create(tmp_path / "began")
    left(began, machine="node9")
    pinned = [{"name": "east", "accelerator": "cpu", "workers": 2, "node": "nowhere"}]
    with pytest.raises(LaunchError, match="pinned to node 'nowhere'"):
        start_run(given(tmp_path, islands=pinned), began.path, LOCAL, takes_over=True)
