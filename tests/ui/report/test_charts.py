"""Which curves a run has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from dougong.ui.history import read_history
from dougong.ui.report.charts import short, training_charts, two_digits
from tests.ui.recorded import Recorder, failed_run, finished_run


def test_failures_are_marked_in_every_chart_and_named_in_the_first(tmp_path: Path) -> None:
    charts = training_charts(read_history(finished_run(tmp_path / "run")))
    assert ">east/1</text>" in charts.loss.drawing
    for card in charts.small:
        assert "east/1: killed by signal 9" in card.drawing
        assert ">east/1</text>" not in card.drawing
    assert [card.title for card in charts.small] == ["Throughput", "Time in a step", "Gradient norm", "Learning rate"]
    assert charts.load == []


def test_the_time_of_each_island(tmp_path: Path) -> None:
    charts = training_charts(read_history(failed_run(tmp_path / "run")))
    legend = charts.small[1].legend
    for name in ("whole", "east compute", "east exchange", "west compute", "west exchange"):
        assert name in legend


def test_a_run_without_a_step(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    charts = training_charts(read_history(recorder.run))
    assert (charts.loss, list(charts.small), list(charts.load)) == (None, [], [])


def test_a_loss_that_is_never_finite_is_shown_as_such(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for step in (1, 2):
        recorder.run.append_metrics({**recorder.row(1, step), "loss": math.nan, "grad_norm": None})
    charts = training_charts(read_history(recorder.run))
    assert charts.loss is not None and "not a finite number: steps 1-2" in charts.loss.drawing
    assert "Gradient norm" not in [card.title for card in charts.small]


@pytest.mark.parametrize(("value", "text"), [(0, "0.00"), (1.234, "1.23"), (0.00123, "0.0012"), (-2.5, "-2.50")])
def test_two_digits(value: float, text: str) -> None:
    assert two_digits(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.003, "0.003"), (3e-6, "3.0e-06"), (2e5, "2.0e+05")])
def test_short(value: float, text: str) -> None:
    assert short(value) == text
