"""Whole runs of toy workers whose checkpoints cannot be committed: how loudly that is said, and how they end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.launcher.toyrun import ROOT, ToyRun, toy_job, wait_for


def status_of(run: ToyRun) -> str:
    command = [sys.executable, "-c", "from dougong.cli.main import main; main()", "status", str(run.path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


def block_commits(run: ToyRun, *steps: int) -> list[Path]:
    """Files that lie where the checkpoints of these steps are to be."""
    wait_for(run.run_dir.checkpoints.is_dir, "the run directory is there")
    names = [f"step-{step:06d}{end}" for step in steps for end in ("", ".g1")]
    files = [run.run_dir.checkpoints / name for name in names]
    for file in files:
        file.touch()
    return files


@pytest.mark.slow
def test_a_run_that_cannot_be_saved_says_so_loudly(tmp_path: Path) -> None:
    """Without any checkpoint it ends at the second failure, long before its last step."""
    run = ToyRun(tmp_path / "run", toy_job(steps=400, step_s=0.02)).start()
    files = block_commits(run, 5, 10, 15, 20)
    assert run.finish() == 1, run.text()
    assert [event["in_a_row"] for event in run.events("checkpoint_failed")][:2] == [1, 2]
    assert run.run_dir.read_metrics()[-1]["step"] < 100
    words = "no checkpoint yet (2 in a row failed): "
    assert f"checkpoint of step 10 not committed, so training on is not saved: {words}" in run.text()
    assert words in status_of(run)
    assert words in run.run_dir.report_file.read_text()
    assert "next: " in run.text().splitlines()[-1]
    for file in files:
        file.unlink()
    shutil.rmtree(run.path / "toy")  # the toy's own
    run.job["steps"] = 20
    assert ToyRun(tmp_path / "run", run.job).start().finish() == 0  # what the last line says: begin it again


@pytest.mark.slow
def test_storage_that_heals_is_told_and_one_that_does_not_is_no_good_end(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(step_s=0.05)).start()
    block_commits(run, 10)
    assert run.finish() == 0, run.text()
    assert "after 1 that failed: the run is saved again" in run.text()
    run = ToyRun(tmp_path / "again", toy_job(step_s=0.05)).start()
    block_commits(run, 15, 20)
    assert run.finish() == 1, run.text()
    assert "failed at step 20/20" in run.text()
    assert "no checkpoint since step 10 (2 in a row failed): " in run.text()
