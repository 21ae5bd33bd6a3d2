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
        run.append_metrics({"generation": 1, "step": step, "loss": loss, "grad_norm": 1.0})
    for step in steps:
        save(run.checkpoints, model, step=step)
    return run


def test_equal_runs(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0, 2.0, math.nan])
    make_run(tmp_path / "b", model, [3.0, 2.0, math.nan], steps=(20, 40, 60))
    comparison = diff(tmp_path / "a", tmp_path / "b")
    assert comparison.equal and comparison.same_length
    assert str(comparison) == "equal, bit by bit: metrics of 3 steps, checkpoints of steps: 20, 40"


def test_one_step_is_one(model: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, model, [3.0], steps=())
    assert "metrics of 1 step, checkpoints" in str(diff(tmp_path / "a", tmp_path / "b"))


def test_a_rewound_step_counts_by_its_last_generation(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0, 2.0, 1.0])
    other = make_run(tmp_path / "b", model, [3.0, 9.0])
    for step, loss in ((2, 2.0), (3, 1.0)):
        other.append_metrics({"generation": 2, "step": step, "loss": loss, "grad_norm": 1.0})
    assert diff(tmp_path / "a", tmp_path / "b").equal


def test_the_first_step_of_two_runs_that_differs_is_named(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0] * 50)
    make_run(tmp_path / "b", changed(model, "model.norm.weight", 5, 1.0), [3.0] * 24 + [3.0000002] + [3.0] * 25)
    comparison = diff(tmp_path / "a", tmp_path / "b")
    assert [(d.step, d.name) for d in comparison.differences] == [(20, "model.norm.weight"), (25, "loss")]
    assert str(comparison.differences[1]) == "step 25: loss: 3.0 and 3.0000002"


@pytest.mark.parametrize(
    ("a_first", "a_losses", "words"),
    [
        (1, [3.0, 2.0], "equal on steps 1-2; B goes on to 3"),
        (2, [2.0], "equal on step 2; only B has steps 1, 3"),
        (2, [2.0, 1.0, 0.5], "equal on steps 2-3; A goes on to 4, only B has step 1"),
    ],
)
def test_a_run_that_went_further_is_equal_as_far_as_both_go(
    model: Any, tmp_path: Path, a_first: int, a_losses: list[float], words: str
) -> None:
    make_run(tmp_path / "a", model, a_losses, a_first, steps=(20,))
    make_run(tmp_path / "b", model, [3.0, 2.0, 1.0], steps=(20,))
    comparison = diff(tmp_path / "a", tmp_path / "b")
    assert comparison.equal and not comparison.same_length
    assert comparison.lines(9)[0] == words


def test_what_differs_in_runs_of_unequal_length_comes_before_their_lengths(model: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a", model, [3.0, 2.5], steps=(20,))
    make_run(tmp_path / "b", model, [3.0, 2.0, 1.0], steps=(20,))
    lines = diff(tmp_path / "a", tmp_path / "b").lines(9)
    assert lines[1:] == ["  step 2: loss: 2.5 and 2.0", "of unequal length: B goes on to 3"]


def test_only_the_shorter_run_was_validated_at_its_end(model: Any, tmp_path: Path) -> None:
    shorter, longer = RunDir.create(tmp_path / "a"), RunDir.create(tmp_path / "b")
    for run, last in ((shorter, 2), (longer, 3)):
        run.write_job("job: test\n")
        for step in range(1, last + 1):
            validated = {"val_loss": 2.0} if step == last else {}
            run.append_metrics({"generation": 1, "step": step, "loss": 1.0, **validated})
    assert diff(shorter.path, longer.path).lines(9)[0] == "equal on steps 1-2; B goes on to 3"


def test_what_cannot_be_compared_is_refused(model: Any, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "c", model)
    make_run(tmp_path / "a", model, [3.0], steps=(20,))
    make_run(tmp_path / "b", model, [3.0], first=2, steps=(40,))
    with pytest.raises(CheckpointError, match="one holds a model's weights and one does not"):
        diff(checkpoint, tmp_path / "a")
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/nowhere: no such directory; give a checkpoint or a "):
        diff(checkpoint, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="config.json: is a file; give a checkpoint or a "):
        diff(checkpoint / "model" / "config.json", checkpoint)
    with pytest.raises(CheckpointError, match="nothing to compare"):
        diff(tmp_path / "a", tmp_path / "b")
    with pytest.raises(LaunchError):
        diff(tmp_path / "missing", tmp_path / "a")
    shutil.copy(checkpoint / "model/config.json", checkpoint / "manifest.json")
    with pytest.raises(CheckpointError, match="damaged"):
        diff(checkpoint, checkpoint)
