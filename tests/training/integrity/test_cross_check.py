"""What two computations came to, told by the workers who made them."""

from __future__ import annotations

from dougong.parallel.comm.world import World
from dougong.training.integrity.cross_check import CrossCheck
from dougong.training.integrity.verdict import LOSSES, Computed, Disagreement

PLACE = (LOSSES, 0, "the loss")


def test_a_worker_alone_hears_itself() -> None:
    comparison = CrossCheck(World.alone(), (0,))
    one, other = Computed({PLACE: 1}), Computed({PLACE: 2})
    assert comparison.difference(one, Computed({PLACE: 1})) is None
    assert comparison.difference(one, other) == Disagreement(PLACE, 0)
    (heard,) = comparison.gather_by_part(other)
    assert heard.numbers == other.numbers
