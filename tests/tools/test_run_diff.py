"""The first step and tensor in which two runs differ."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from dougong.errors import CheckpointError, LaunchError
from dougong.records.directory import RunDir
from dougong.tools.run_diff import diff
from tests.checkpoint.saving import save, tiny_model
from tests.tools.test_checkpoint_diff import changed


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("gpt_oss", num_hidden_layers=2)


def make_run(path: Path, model: Any, losses: list[float], first: int = 1, steps: tuple[int, ...] = (20, 40)) -> RunDir:
    run = RunDir.create(path)
    run.write_job("job: test\n")
    for step, loss in enumerate(losses, first):
        run.append_metrics({"attempt": 1, "step": step, "loss": loss, "grad_norm": 1.0})
    for step in steps:
        save(run.checkpoints, model, step=step)
    return run


def test_equal_runs(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0, 2.0, math.nan])
    make_run(tmp_path / "b", model, [3.0, 2.0, math.nan], steps=(20, 40, 60))
    comparison = diff(tmp_path / "a", tmp_path / "b")
    assert comparison.equal
    assert str(comparison) == "equal, bit by bit: metrics of 3 steps, checkpoints of steps: 20, 40"


def test_a_rewound_step_counts_by_its_last_attempt(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0, 2.0, 1.0])
    other = make_run(tmp_path / "b", model, [3.0, 9.0])
    for step, loss in ((2, 2.0), (3, 1.0)):
        other.append_metrics({"attempt": 2, "step": step, "loss": loss, "grad_norm": 1.0})
    assert diff(tmp_path / "a", tmp_path / "b").equal


def test_the_first_step_of_two_runs_that_differs_is_named(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0] * 50)
    make_run(tmp_path / "b", changed(model, "model.norm.weight", 5, 1.0), [3.0] * 24 + [3.0000002] + [3.0] * 25)
    comparison = diff(tmp_path / "a", tmp_path / "b")
    assert [(d.step, d.name) for d in comparison.differences] == [(20, "model.norm.weight"), (25, "loss")]
    assert str(comparison.differences[1]) == "step 25: loss: 3.0 and 3.0000002"


def test_a_run_that_went_further_is_different(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0, 2.0])
    make_run(tmp_path / "b", model, [3.0, 2.0, 1.0])
    assert str(diff(tmp_path / "a", tmp_path / "b").first) == "step 3: metrics: only in B"


def test_what_cannot_be_compared_is_refused(model: Any, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "c", model)
    make_run(tmp_path / "a", model, [3.0], steps=(20,))
    make_run(tmp_path / "b", model, [3.0], first=2, steps=(40,))
    with pytest.raises(CheckpointError, match="one is a checkpoint and one is not"):
        diff(checkpoint, tmp_path / "a")
    with pytest.raises(CheckpointError, match="nothing to compare"):
        diff(tmp_path / "a", tmp_path / "b")
    with pytest.raises(LaunchError):
        diff(tmp_path / "missing", tmp_path / "a")
    shutil.copy(checkpoint / "model/config.json", checkpoint / "manifest.json")
    with pytest.raises(CheckpointError, match="damaged"):
        diff(checkpoint, checkpoint)
