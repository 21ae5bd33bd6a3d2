"""`dougong calibrate` as a person types it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dougong.cli.calibrate import speed_lines
from dougong.job.load import load_job
from dougong.job.parts.rates import Rates
from tests.launcher.jobs import ROOT

AFD = ROOT / "examples" / "afd.yaml"


@pytest.mark.slow
def test_the_command_prints_what_a_job_accepts(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dougong", "calibrate", str(AFD), "--no-ray", "--steps", "3"]
    small = ["-o", "model.config.num_hidden_layers=2", "-o", "batch.microbatches=1"]
    ended = subprocess.run(
        [*words, *small, "--run-dir", str(tmp_path / "c")], capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    _, _, printed = ended.stdout.partition("# for the job file")
    measured = {island["name"]: island["speed"] for island in yaml.safe_load("#" + printed)["islands"]}
    words = re.findall(r"-o '(.*)'", printed)
    job = load_job(AFD, [*words, "offload=auto"]).job
    assert {i.name: i.speed and i.speed.model_dump() for i in job.islands} == measured


def test_speeds_are_printed_as_yaml_and_as_overrides() -> None:
    text = "\n".join(speed_lines({"east": Rates(attention=24.714, experts=35.2)}))
    speed = {"attention": 24.71, "experts": 35.2}
    assert yaml.safe_load(text) == {"islands": [{"name": "east", "speed": speed}]}
    assert "-o 'islands.east.speed={attention: 24.71, experts: 35.2}'" in text
