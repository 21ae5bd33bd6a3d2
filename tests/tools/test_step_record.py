"""A step as a run's metrics have it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from dougong.tools.step_record import StepRecord, read_records, same_number


def test_steps_of_the_present_history(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    totals = {"gradients": "0a", "weights": "0b"}
    run.append_metrics({"generation": 1, "step": 1, "loss": 3.0, "grad_norm": 1.5, "ledger": "aa", "checksums": totals})
    run.append_metrics({"generation": 1, "step": 2, "loss": 9.0})
    run.append_metrics({"generation": 2, "step": 2, "loss": 2.0, "val_loss": 2.5})
    assert read_records(run) == {
        1: StepRecord(1, 1, 3.0, None, 1.5, "aa", totals),
        2: StepRecord(2, 2, 2.0, 2.5, None, None, {}),
    }


@pytest.mark.parametrize(
    ("x", "y", "same"),
    [(1.0, 1.0, True), (1.0, 1.1, False), (math.nan, math.nan, True), (math.nan, 1.0, False), (None, None, True),
     (None, 1.0, False)],
)  # fmt: skip
def test_not_a_number_is_itself(x: float | None, y: float | None, same: bool) -> None:
    assert same_number(x, y) is same
