"""One validation: in the whole, and of each source of a mixture."""

from __future__ import annotations

import math

import pytest
from dougong.training.results.held_out import HeldOutLosses


def test_one_source_is_the_mean_in_the_order_of_rounds_and_lanes() -> None:
    losses = {(0, 1): 2.0, (0, 0): 1.0, (1, 0): 3.0, (1, 1): 6.0}
    found = HeldOutLosses(losses, (1.0,))
    assert found.mean == 3.0 and found.by_source == {} and found.row() == {"val_loss": 3.0}


def test_the_whole_weighs_sources_by_their_shares() -> None:
    losses = {(number, lane): 10.0 * (number // 2) + lane for number in range(6) for lane in range(2)}
    found = HeldOutLosses(losses, (0.5, 0.25, 0.25))
    assert list(found.by_source.values()) == [0.5, 10.5, 20.5] and found.mean == pytest.approx(0.25 + 2.625 + 5.125)
    assert found.row() == {
        "val_loss": found.mean,
        "val_by_source": {"mixture.0": 0.5, "mixture.1": 10.5, "mixture.2": 20.5},
    }


def test_a_source_that_is_not_finite_makes_the_whole_so() -> None:
    found = HeldOutLosses({(0, 0): 1.0, (1, 0): math.nan}, (0.5, 0.5))
    assert math.isnan(found.mean) and found.by_source["mixture.0"] == 1.0 and math.isnan(found.by_source["mixture.1"])
