"""`dougong start` as a scheduler calls it; tests/launcher/test_start.py has the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from tests.checkpoint.saving import bare_checkpoint
from tests.launcher.jobs import ROOT, write


def start(job: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dougong", "start", str(job), "--run-dir", str(run), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_run_directory_must_be_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dougong", "start", str(write(tmp_path))], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--run-dir" in done.stderr


@pytest.mark.parametrize("command", ["--address=nowhere", "--no-ray --address=a:1"])
def test_what_cannot_be_leaves_no_directory(tmp_path: Path, command: str) -> None:
    done = start(write(tmp_path), tmp_path / "run", *command.split())
    assert done.returncode == 2
    assert done.stderr.startswith("--address")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_finished_stays_as_it_is(tmp_path: Path) -> None:
    run, job = RunDir.create(tmp_path / "run"), write(tmp_path)
    run.write_job(job.read_text())
    bare_checkpoint(run.checkpoints, 10)
    done = start(job, run.path, "--no-ray")
    assert done.returncode == 0, done.stderr
    assert "next: python -m dougong" in done.stdout
    assert run.read_events() == []
