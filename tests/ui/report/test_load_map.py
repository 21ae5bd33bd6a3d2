"""The experts' load in the report."""

from __future__ import annotations

import re
from pathlib import Path

from dougong.ui.report.load_map import load_cards, load_map
from dougong.ui.report.page import write_report
from tests.ui.recorded import Recorder


def test_the_load_is_drawn_when_rows_tell_of_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for step in range(1, 4):
        load = {"max_over_mean": [1.5, 3.0 - step / 4, 1.25], "worst": 3.0 - step / 4}
        counts = {"counts": [[6, 2, 4, 0], [9, step, 0, 0], [4, 4, 4, 0]]} if step == 2 else {}
        recorder.run.append_metrics({**recorder.row(1, step), "load": {**load, **counts}})
    page = write_report(recorder.run).read_text(encoding="utf-8")
    assert "<title>step 2\nworst layer 2.50\nmedian layer 1.50</title>" in page
    assert page.count('class="heat"') == 9 and "Load at step 2" in page
    assert "MoE layer 0, expert 0: 6 tokens, 1.50 times the mean" in page
    assert "MoE layer 1, expert 0: 9 tokens, 2.45 times the mean" in page


def test_a_run_that_does_not_tell_has_no_such_section(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.run.append_metrics(recorder.row(1, 1))
    assert "Load" not in write_report(recorder.run).read_text(encoding="utf-8")
    assert load_cards([], []) == []


def test_a_single_layer_has_no_median() -> None:
    (drawn,) = load_cards([{"step": 1, "load": {"max_over_mean": [2.0], "worst": 2.0}}], [])
    assert "worst layer" in drawn.drawing and "median" not in drawn.drawing and "heat" not in drawn.drawing


def test_darkness_is_the_load_and_no_tokens_at_all_are_no_error() -> None:
    shades = re.findall(r'fill-opacity="([\d.]+)"', load_map([[8, 4, 0, 7], [4, 4, 4, 7]], 1).drawing)
    assert shades == ["1.000", "0.520", "0.040", "0.520", "0.520", "0.520"]
    assert re.findall(r'fill-opacity="([\d.]+)"', load_map([[0, 0, 0]], 1).drawing) == ["0.040"] * 2


def test_a_large_model_gets_fewer_cells_of_the_busiest_expert_each() -> None:
    counts = [[1] * 256 + [0] for _ in range(61)]
    counts[3][9] = 100
    drawn = load_map(counts, 7).drawing
    assert 2048 <= drawn.count("<rect") <= 4096 + 61
    assert "MoE layer 3, expert 9: 100 tokens" in drawn and len(drawn) < 1_500_000
