"""A whole run whose numbers blow up: what it says, what it leaves, and how it ends."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.checkpoint.verify import verify
from dougong.fault.culprit import Culprit
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted, FailureDiagnosed, RecoveryDecided, RunEnded
from tests.checkpoint.saving import make_not_finite
from tests.jobs import make_job
from tests.training.running import token_file

ROOT = Path(__file__).resolve().parent.parent


def dougong(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dougong", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def blown_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, subprocess.CompletedProcess[str]]:
    """A learning rate of 1e30, no clipping, a checkpoint after every step of which one is kept."""
    folder = tmp_path_factory.mktemp("blown-up")
    job = make_job(
        data={"tokens": str(token_file(folder)), "sequence_length": 16},
        optimizer={"lr": 1e30, "clip_norm": None},
        steps=12,
        checkpoint={"every": 1, "keep": 1},
        islands=[{"name": "east", "accelerator": "cpu", "workers": 2}],
    )
    job_file = folder / "job.yaml"
    job_file.write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
    ended = dougong("run", str(job_file), "--no-ray", "--run-dir", str(folder / "run"))
    return RunDir(folder / "run"), ended


Blown = tuple[RunDir, subprocess.CompletedProcess[str]]


def test_the_run_fails_with_the_place_and_is_not_tried_again(blown_up: Blown) -> None:
    run, ended = blown_up
    assert ended.returncode == 1, ended.stdout + ended.stderr
    last_words = ended.stderr
    assert "numerics: NumericsError: step 2: loss " in last_words and "so no weight was moved" in last_words
    assert "the first value that is not finite: lane 0, micro-batch 0, " in last_words
    assert "Traceback" not in last_words + ended.stdout
    events = run.read_events()
    decided = [event for event in events if isinstance(event, RecoveryDecided)]
    assert [(event.action, event.reason) for event in decided] == [("fail", "a numerics error would come again")]
    end = next(event for event in events if isinstance(event, RunEnded))
    assert (end.kind, end.failure, end.step) == ("failed", "numerics", 2)
    assert ">failed<" in run.report_file.read_text()


def test_the_bad_step_is_recorded_and_the_checkpoint_before_it_kept(blown_up: Blown) -> None:
    run, _ = blown_up
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == [1, 2] and math.isnan(rows[1]["grad_norm"]) and rows[1]["skipped"]
    committed = [event.step for event in run.read_events() if isinstance(event, CheckpointCommitted)]
    assert committed == [1]
    (kept,) = run.checkpoints.glob("step-*")
    assert verify(kept).ok


def test_verify_says_what_is_not_finite(blown_up: Blown) -> None:
    """As in a checkpoint of an older release."""
    run, _ = blown_up
    (kept,) = run.checkpoints.glob("step-*")
    make_not_finite(kept, "lm_head.weight")
    said = dougong("verify", str(run.path))
    assert said.returncode == 1
    assert "lm_head.weight: finite: expected no NaN and no infinity, found 1 value" in said.stdout + said.stderr


@pytest.mark.parametrize("fault", [{}, {"non_finite": "skip", "audit": "all"}], ids=["stop", "skip, audited"])
def test_a_nan_that_does_not_come_again_costs_one_step(fault: dict[str, Any], tmp_path: Path) -> None:
    """The step is computed again, with the bits of a run in which nothing happened."""
    losses = {}
    for name, drill in (("honest", []), ("spoilt", [{"at_step": 3, "fault": "nan", "on": "east/1"}])):
        job = make_job(
            data={"tokens": str(token_file(tmp_path)), "sequence_length": 16}, steps=4, fault=fault, drill=drill,
            islands=[{"name": "east", "accelerator": "cpu", "workers": 2}],
        )  # fmt: skip
        job_file = tmp_path / f"{name}.yaml"
        job_file.write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
        ended = dougong("run", str(job_file), "--no-ray", "--run-dir", str(tmp_path / name))
        assert ended.returncode == 0, ended.stderr
        run = RunDir(tmp_path / name)
        losses[name] = [(row["step"], row["loss"]) for row in run.latest_metrics()]
    assert losses["spoilt"] == losses["honest"]
    (named,) = (event for event in run.read_events() if isinstance(event, FailureDiagnosed))
    who = Culprit("worker", "east/1") if fault else Culprit("workers", "")
    assert (named.failure, named.culprit) == ("corruption", who)
