"""Whole runs in which one bit changes: it is named before the step is committed, the step is computed again from the
snapshot, and the bits are those of an undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.families import config_values
from tests.launcher.toyrun import ToyRun
from tests.training.running import token_file

ENTRY = "tests.training.session_drill:train_as_named"


def flipped(folder: Path, name: str, **changes: Any) -> ToyRun:
    """Two workers, eight steps; the run is called as what happens in it."""
    folder.mkdir(exist_ok=True)
    job: dict[str, Any] = {
        "job": name,
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe")},
        "data": {"tokens": str(token_file(folder)), "sequence_length": 16},
        "batch": {"lanes": 2, "microbatches": 2, "microbatch_size": 1},
        "steps": 8,
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 2}],
        "checkpoint": {"every": 0},
        **changes,
    }
    return ToyRun(folder / name, job, flags=("--train", "--entry", ENTRY)).start()


def ledgers(run: ToyRun) -> dict[int, tuple[Any, ...]]:
    return {row["step"]: (row["loss"], row["ledger"]) for row in run.run_dir.read_metrics()}


def check(run: ToyRun, culprit: str) -> dict[int, tuple[Any, ...]]:
    """The run has got over it by the snapshot of the step before; what its steps came to."""
    assert run.finish(300) == 0, run.text()
    (found,) = run.events("diagnosis")
    assert (found["class"], found["culprit"]["name"]) == ("corruption", culprit), found
    (over,) = run.events("recovered")
    assert len(over["kept"]) == 1, "the other worker keeps its process"
    return ledgers(run)


def test_a_changed_weight_is_named_and_the_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = flipped(tmp_path / "whole", "nothing-0-99")
    assert whole.finish(300) == 0, whole.text()
    assert check(flipped(tmp_path / "run", "flip-weight-1-4"), "east/1") == ledgers(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "culprit", "audit"), [
    ("flip-weight-0-4", "east/0", None),
    ("flip-moment-1-5", "east/1", None),
    ("flip-message-1-4", "east/1 and east/0", None),
    ("flip-activation-1-4", "east/1", "all"),
    ("flip-gradient-0-6", "east/0", 3),
])  # fmt: skip
def test_every_flip_is_named_and_the_run_goes_on_to_the_same_bits(
    name: str, culprit: str, audit: Any, tmp_path: Path
) -> None:
    whole = flipped(tmp_path / "whole", "nothing-0-99")
    assert whole.finish(300) == 0, whole.text()
    assert check(flipped(tmp_path / "run", name, fault={"audit": audit}), culprit) == ledgers(whole)
