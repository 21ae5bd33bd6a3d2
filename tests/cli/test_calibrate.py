"""`dougong calibrate` as a person types it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dougong.job.load import load_job
from tests.launcher.jobs import ROOT

AFD = ROOT / "examples" / "afd.yaml"


def test_the_command_prints_what_a_job_accepts(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dougong", "calibrate", str(AFD), "--no-ray", "--steps", "3"]
    small = ["-o", "model.config.num_hidden_layers=2", "-o", "batch.microbatches=1"]
    ended = subprocess.run(
        [*words, *small, "--run-dir", str(tmp_path / "c")], capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("islands.")]
    assert [line.partition(".speed=")[0] for line in lines] == ["islands.east", "islands.west"]
    job = load_job(AFD, [*lines, "offload=auto"]).job
    assert all(i.speed and re.search(rf"{i.name}\.speed=.*{i.speed.attention:.4g}", ended.stdout) for i in job.islands)
