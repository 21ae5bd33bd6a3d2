"""A run is what it was when it began, whatever becomes of the folder that it began from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from dougong.records.directory import RunDir
from tests.folders import change_config, small_folder

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 150


def dougong(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dougong", *words, "--no-ray"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_rewritten_folder_changes_nothing_and_a_lost_one_is_not_needed(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "model")
    job = {
        "job": "kept",
        "model": {"path": str(folder)},
        "data": {"text": "stdlib", "sequence_length": 8},
        "batch": {"lanes": 2},
        "steps": 40,
        "checkpoint": {"every": 20},
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 2}],
        "drill": [{"at_step": 36, "kill": "east/1"}],
        "fault": {"snapshots": {"every": 0}},  # the folder would not be looked at again
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    run = RunDir(tmp_path / "run")
    process = dougong("run", str(tmp_path / "job.yaml"), "--run-dir", str(run.path))
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not run.metrics_file.exists():
            assert time.monotonic() < deadline and process.poll() is None, process.poll()
            time.sleep(0.02)
        change_config(folder, rms_norm_eps=0.5)
        text, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 0, text
    (again,) = [event for event in run.read_events() if event.kind == "steps_recomputed"]
    assert (again.first, again.last, again.differs_from) == (21, 35, None)

    shutil.rmtree(folder)
    process = dougong("resume", str(run.path), "-o", "steps=42")
    text, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, text
    assert "is gone; the run goes on from what it has kept" in text
