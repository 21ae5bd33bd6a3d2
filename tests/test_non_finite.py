"""A whole run whose numbers blow up: what it says, what it leaves, and how it ends."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dougong.checkpoint.verify import verify
from dougong.fault.culprit import Culprit
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted, FailureDiagnosed, RecoveryDecided, RunEnded
from tests.checkpoint.saving import make_not_finite
from tests.folders import change_weights, small_folder
from tests.jobs import make_job
from tests.training.running import token_file

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def advised() -> list[str]:
    """The commands that README gives for a step that is not finite, in its order."""
    (row,) = [line for line in README.splitlines() if line.startswith("| `nan`")]
    return re.findall(r"`(dougong [^`]+)`", row.rsplit(" | ", 1)[-1])


def test_readme_s_commands_after_a_step_that_is_not_finite_are_these_two() -> None:
    begun = [words.split(" -o ")[0] for words in advised()]
    assert begun == ["dougong resume RUN", "dougong run FILE"]


def given(words: str, **names: object) -> list[str]:
    """A command of README's, with a user's own names and numbers in it."""
    for name, value in names.items():
        words = words.replace(name, str(value))
    return [*shlex.split(words)[1:], "--no-ray"]


DIVERGING = {"lr": 1e-2, "weight_decay": 1e12, "clip_norm": None}


def failed_run(folder: Path, **changes: Any) -> Path:
    """The run directory of a job beside `job.yaml` that has ended with a step that was not finite."""
    tokens = folder / "tokens.bin" if (folder / "tokens.bin").exists() else token_file(folder)
    values = {
        "data": {"tokens": str(tokens), "sequence_length": 16},
        "checkpoint": {"every": 1, "keep": 9},
        "schedule": {"name": "constant"},
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 2}],
        "steps": 6,
    }
    job = make_job(**values | changes)
    job_file, run = folder / "job.yaml", folder / "run"
    job_file.write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
    ended = dougong("run", str(job_file), "--no-ray", "--run-dir", str(run))
    assert ended.returncode == 1 and "numerics: NumericsError" in ended.stderr, ended.stdout + ended.stderr
    return run


def test_a_batch_that_is_to_blame_is_left_out_by_readme_s_first_command(tmp_path: Path) -> None:
    """One token of all has an embedding whose square overflows: the step that reads it has a NaN, and no other."""
    folder = small_folder(tmp_path / "model")
    ids = np.random.default_rng(5).integers(3, 250, 6 * 4 * 17 + 1).astype("<u2")
    ids[150] = 255
    ids.tofile(tmp_path / "tokens.bin")
    change_weights(folder, lambda tensors: tensors["model.embed_tokens.weight"][255].fill_(3e38))
    run = failed_run(tmp_path, model={"path": str(folder)}, batch={"lanes": 2, "microbatches": 1, "microbatch_size": 2})
    (bad,) = [row["step"] for row in RunDir(run).read_metrics() if row.get("skipped")]
    ended = dougong(*given(advised()[0], RUN=run))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = {row["step"]: row for row in RunDir(run).read_metrics()}
    assert max(rows) == 6 and [step for step, row in rows.items() if row.get("skipped")] == [bad]


def test_after_training_has_diverged_a_new_run_goes_on_from_weights_by_readme_s_second_command(tmp_path: Path) -> None:
    """A decay that multiplies weights by 1e10 each step: those of the first can still be trained from."""
    run = failed_run(tmp_path, optimizer=DIVERGING)
    assert len(list(run.glob("checkpoints/step-*"))) >= 2
    lower = f"{advised()[1].replace('=...', '=1.0e-15')} --run-dir {tmp_path / 'lower'}"
    words = given(lower, RUN=run, FILE=tmp_path / "job.yaml", **{"step-N": "step-000001"})
    ended = dougong(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = RunDir(tmp_path / "lower").read_metrics()
    assert [row["step"] for row in rows] == list(range(1, 7)) and all(math.isfinite(row["loss"]) for row in rows)


def test_a_resume_keeps_the_learning_rate(tmp_path: Path) -> None:
    """Why README names a new run."""
    run = failed_run(tmp_path, optimizer=DIVERGING)
    ended = dougong(*given("dougong resume RUN -o optimizer.lr=1.0e-15", RUN=run))
    assert ended.returncode == 2 and "optimizer.lr: 0.01 then, 1.0e-15 now" in ended.stderr


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
