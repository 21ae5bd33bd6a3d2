"""TensorBoard files, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dougong.ui.tensorboard_files import TensorBoardFiles
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.ui.recorded import running_run


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard shows them."""
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0}, purge_orphaned_data=True)
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def row(attempt: int, step: int, **more: Any) -> dict[str, Any]:
    return {"generation": attempt, "step": step, "loss": attempt + step / 100, "lr": 0.1, **more}


def test_every_number_has_a_curve(tmp_path: Path) -> None:
    tracker = TensorBoardFiles(tmp_path)
    tracker.step(row(1, 1, val_loss=2.5, grad_norm=1.5, tokens_per_s=8000.0, step_s=0.5, tokens=4096,
                     islands={"east": {"compute_s": 0.25, "exchange_s": None}}, balance_loss=0.5,
                     load={"max_over_mean": [1.5, 1.25], "worst": 1.5}))  # fmt: skip
    tracker.step(row(1, 2, val_loss=None))
    tracker.close()
    tracker.close()
    shown = curves(tmp_path)
    assert shown["loss/validation"] == [(1, 2.5)]
    assert [step for step, _ in shown["loss/train"]] == [1, 2]
    assert {tag: points[0][1] for tag, points in shown.items() if tag != "loss/train"} == {
        "loss/validation": 2.5, "optimizer/lr": pytest.approx(0.1), "optimizer/grad_norm": 1.5,
        "speed/tokens_per_s": 8000.0, "speed/step_s": 0.5, "run/generation": 1.0, "island/east/compute_s": 0.25,
        "loss/balance": 0.5, "load/worst_max_over_mean": 1.5,
    }  # fmt: skip


def test_each_source_of_a_mixture_has_a_curve_of_its_own(tmp_path: Path) -> None:
    tracker = TensorBoardFiles(tmp_path)
    tracker.step(row(1, 1, val_loss=2.5, val_by_source={"mixture.0": 2.0, "mixture.1": 3.0}))
    tracker.close()
    shown = curves(tmp_path)
    assert (shown["loss/validation/mixture.0"], shown["loss/validation/mixture.1"]) == ([(1, 2.0)], [(1, 3.0)])


def test_a_rewind_shows_the_new_attempt_only(tmp_path: Path) -> None:
    tracker = TensorBoardFiles(tmp_path)
    for attempt, first, last in ((1, 1, 9), (2, 5, 7)):
        for step in range(first, last + 1):
            tracker.step(row(attempt, step))
    shown = curves(tmp_path)
    expected = [(s, 1 + s / 100) for s in range(1, 5)] + [(s, 2 + s / 100) for s in range(5, 8)]
    assert shown["loss/train"] == [(step, pytest.approx(loss)) for step, loss in expected]
    assert [value for _, value in shown["run/generation"]] == [1, 1, 1, 1, 2, 2, 2]


def test_a_resumed_run_goes_on_in_a_second_file_even_within_the_same_second(tmp_path: Path) -> None:
    for attempt, first, last in ((1, 1, 9), (2, 5, 12), (3, 12, 13)):
        tracker = TensorBoardFiles(tmp_path, wall=lambda: 1_700_000_000.5)
        for step in range(first, last + 1):
            tracker.step(row(attempt, step))
        tracker.close()
    assert len(list(tmp_path.iterdir())) == 3
    shown = curves(tmp_path)
    assert [step for step, _ in shown["loss/train"]] == list(range(1, 14))
    assert [value for _, value in shown["run/generation"]] == [1.0] * 4 + [2.0] * 7 + [3.0] * 2


def test_rows_are_on_the_disk_before_close(tmp_path: Path) -> None:
    tracker = TensorBoardFiles(tmp_path / "tensorboard")
    tracker.step(row(1, 1, loss=math.nan))
    ((_, value),) = curves(tmp_path / "tensorboard")["loss/train"]
    assert math.isnan(value)


def test_a_whole_recorded_run(tmp_path: Path) -> None:
    run = running_run(tmp_path / "run")
    tracker = TensorBoardFiles(run.tensorboard)
    for metrics in run.read_metrics():
        tracker.step(metrics)
    shown = curves(run.tensorboard)["loss/train"]
    assert shown == [(r["step"], pytest.approx(r["loss"])) for r in run.latest_metrics()]


def test_it_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dougong.ui.tensorboard_files import TensorBoardFiles\n"
        "TensorBoardFiles(Path(sys.argv[1])).close()\n"
        "print([m for m in ('torch', 'tensorflow', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
