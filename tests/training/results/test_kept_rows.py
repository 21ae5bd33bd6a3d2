"""Rows that every worker keeps, for steps that nobody has told."""

from __future__ import annotations

from dougong.training.results.kept_rows import MOST_ROWS, KeptRows


def test_a_generation_is_offered_what_is_not_recorded_and_nothing_else_is_kept() -> None:
    rows = KeptRows()
    for step in (5, 6, 7, 8):
        rows.keep(3, {"step": step, "loss": 1.0})
    rows.keep(3, {"step": 7, "loss": 1.0, "val_loss": 2.0})
    expected = [{"generation": 3, "step": 6, "loss": 1.0}, {"generation": 3, "step": 7, "loss": 1.0, "val_loss": 2.0}]
    assert list(rows.begin(5, 7)) == expected
    assert list(rows.begin(0, 100)) == expected, "what is computed again is no row of before"


def test_they_do_not_grow_without_end() -> None:
    rows = KeptRows()
    for step in range(1, MOST_ROWS + 10):
        rows.keep(1, {"step": step})
    assert len(rows.begin(0, 10_000)) == MOST_ROWS
