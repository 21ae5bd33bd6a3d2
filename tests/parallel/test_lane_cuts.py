"""The cut of the lanes in whole arrays, against a shortest path that is written out way by way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from dougong.parallel.lane_cuts import cut_lanes
from dougong.parallel.tree import LaneTree
from hypothesis import given, settings
from hypothesis import strategies as st


def written_out(tree: LaneTree, sizes: Sequence[range]) -> list[tuple[int, ...]]:
    """By where the last share ends, (nodes, borders) of the cheapest way there; of equals the last found, costly ones
    first: the first version of the planner, whose plans must stay what they are."""
    cheapest: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, (0,))}
    for number, part in enumerate(sizes):
        behind = sizes[number + 1 :]
        least, most = sum(of[0] for of in behind), sum(of[-1] for of in behind)
        ways = []
        for nodes, borders in cheapest.values():
            ends = [borders[-1] + size for size in part]
            for end in (end for end in ends if least <= tree.num_lanes - end <= most):
                ways.append((nodes + len(tree.held(range(borders[-1], end))), (*borders, end)))
        ways.sort(key=lambda way: way[0], reverse=True)
        cheapest = {borders[-1]: (nodes, borders) for nodes, borders in ways}
    return [tuple(range(*pair)) for pair in itertools.pairwise(cheapest[tree.num_lanes][1])]


@st.composite
def cuts(draw: Any) -> tuple[LaneTree, list[range]]:
    firsts = draw(st.lists(st.integers(1, draw(st.sampled_from([1, 2, 9]))), min_size=1, max_size=25))
    sizes = [range(first, first + 1 + draw(st.sampled_from([0, 1, 1, 2, 4]))) for first in firsts]
    num_lanes = draw(st.integers(sum(part[0] for part in sizes), sum(part[-1] for part in sizes)))
    return LaneTree(num_lanes), sizes


@given(cuts())
@settings(max_examples=300, deadline=None)
def test_any_cut_is_that_of_the_path_that_is_written_out(drawn: tuple[LaneTree, list[range]]) -> None:
    assert cut_lanes(*drawn) == written_out(*drawn)


@pytest.mark.parametrize("num_lanes", [2, 9])
def test_sizes_that_do_not_add_up_are_refused(num_lanes: int) -> None:
    with pytest.raises(ValueError, match=f"no shares of the sizes .* make {num_lanes} lanes"):
        cut_lanes(LaneTree(num_lanes), [range(1, 3), range(2, 7)])


def test_ten_thousand_uneven_shares_are_cut() -> None:
    shares = cut_lanes(LaneTree(16_384), [range(1, 3)] * 9_744)
    assert [lane for share in shares for lane in share] == list(range(16_384)) and len(shares) == 9_744
