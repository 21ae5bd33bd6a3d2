"""What saves cost is told once, by the row of the step that paid."""

from __future__ import annotations

from dougong.training.results.save_cost import SaveCost


def test_each_second_is_in_one_row_and_no_row_has_more_than_its_step() -> None:
    cost = SaveCost()
    assert cost.keys(1.0, 0.0) == {}
    cost.held(0.25)
    cost.held(0.25)
    assert cost.keys(2.0, 0.5) == {"save_s": 0.5, "write_s": 0.5}
    assert cost.keys(2.0, 3.5) == {"write_s": 2.0}, "the rest was beside a validation, or beside the save itself"
    assert cost.keys(2.0, 3.5) == {}
