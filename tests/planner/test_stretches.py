"""Numbers that follow one another."""

from dougong.planner.stretches import stretches


def test_a_gap_in_either_ends_a_stretch() -> None:
    assert stretches([0, 1, 2, 4, 5], [3, 4, 6, 7, 8]) == [(0, 3, 2), (2, 6, 1), (4, 7, 2)]
    assert stretches([], []) == []
