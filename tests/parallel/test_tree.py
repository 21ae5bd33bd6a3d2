"""The lane tree: one order of additions for a number of lanes, whoever holds which lanes."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from dougong.parallel.assign import lane_shares
from dougong.parallel.tree import LaneTree, TreeNode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def lanes_of(tree: LaneTree, node: TreeNode) -> list[int]:
    start, size = node
    return list(range(start, min(start + size, tree.num_lanes)))


def values(num_lanes: int) -> dict[int, Tensor]:
    """Magnitudes apart, so that nearly every order of additions gives other bits."""
    generator = torch.Generator().manual_seed(num_lanes)
    rows = torch.randn(num_lanes, 64, generator=generator) * 10 ** torch.randn(num_lanes, 64, generator=generator)
    return dict(enumerate(rows))


@st.composite
def lane_maps(draw: Any) -> list[list[int]]:
    """1 to 20 lanes given to workers at random; some workers get none."""
    owners = draw(st.lists(st.integers(0, draw(st.integers(0, 4))), min_size=1, max_size=20))
    return [[lane for lane, owner in enumerate(owners) if owner == rank] for rank in range(max(owners) + 1)]


def reduce_by(lane_map: list[list[int]]) -> Tensor:
    """What workers with these lanes compute: each the nodes it holds, the owner the rest."""
    tree = LaneTree(sum(map(len, lane_map)))
    leaves = values(tree.num_lanes)
    shipped: dict[TreeNode, Tensor] = {}
    for lanes in lane_map:
        own = {(lane, 1): leaves[lane].clone() for lane in lanes}
        for node in tree.held(lanes):
            assert node not in shipped
            shipped[node] = tree.sum(own, node)
    return tree.sum(shipped)


def written_out(leaves: list[Tensor]) -> Tensor:
    """The same tree in other words: neighbours are added in pairs, an odd one out moves up, until one is left."""
    while len(leaves) > 1:
        leaves = [a + b if b is not None else a for a, b in itertools.zip_longest(leaves[::2], leaves[1::2])]
    return leaves[0]


@given(lane_maps())
@settings(max_examples=200, deadline=None)
def test_the_order_of_additions_depends_on_the_number_of_lanes_only(lane_map: list[list[int]]) -> None:
    leaves = values(sum(map(len, lane_map)))
    assert torch.equal(reduce_by(lane_map), written_out(list(leaves.values())))


@pytest.mark.parametrize("num_lanes", [3, 5, 8])
def test_another_order_of_additions_would_show(num_lanes: int) -> None:
    leaves = list(values(num_lanes).values())
    ours = reduce_by([list(range(num_lanes))])
    assert num_lanes == 3 or not torch.equal(ours, functools.reduce(operator.add, leaves))  # three lanes are a chain
    assert not torch.equal(ours, written_out(leaves[::2] + leaves[1::2]))


@given(lane_maps())
@settings(max_examples=200, deadline=None)
def test_shipped_nodes_cover_the_lanes_once_and_no_fewer_would_do(lane_map: list[list[int]]) -> None:
    tree = LaneTree(sum(map(len, lane_map)))
    for lanes in lane_map:
        nodes = tree.held(lanes)
        assert [lane for node in nodes for lane in lanes_of(tree, node)] == sorted(lanes)
        assert len(nodes) == fewest(tree, tree.root, set(lanes))


def held_by_descent(tree: LaneTree, node: TreeNode, lanes: set[int]) -> list[TreeNode]:
    """From the root down, a node that is there whole, else what is held below it."""
    if set(lanes_of(tree, node)) <= lanes:
        return [node]
    return [found for child in tree.children(node) for found in held_by_descent(tree, child, lanes)]


@given(lane_maps())
@settings(max_examples=200, deadline=None)
def test_held_nodes_are_those_of_a_descent_from_the_root(lane_map: list[list[int]]) -> None:
    tree = LaneTree(sum(map(len, lane_map)))
    for lanes in lane_map:
        assert tree.held(lanes) == held_by_descent(tree, tree.root, set(lanes))


@pytest.mark.parametrize("num_lanes", range(1, 35))
def test_so_are_those_of_every_run(num_lanes: int) -> None:
    tree = LaneTree(num_lanes)
    for first, end in itertools.combinations(range(num_lanes + 1), 2):
        assert tree.held(range(first, end)) == held_by_descent(tree, tree.root, set(range(first, end)))


def fewest(tree: LaneTree, node: TreeNode, lanes: set[int]) -> int:
    """Least number of nodes under `node` that cover exactly those of `lanes` below it, by trying."""
    here = set(lanes_of(tree, node))
    if not here & lanes:
        return 0
    below = sum(fewest(tree, child, lanes) for child in tree.children(node)) if tree.children(node) else len(here) + 1
    return min(1, below) if here <= lanes else below


def split_evenly(num_lanes: int, parts: int) -> list[tuple[int, ...]]:
    """The lanes of workers that are equally fast."""
    return lane_shares(num_lanes, [1.0] * parts)


@given(st.integers(1, 10), st.integers(1, 5))
@settings(deadline=None)
def test_no_even_split_ships_fewer_nodes(num_lanes: int, workers: int) -> None:
    tree, parts = LaneTree(num_lanes), min(workers, num_lanes)
    shares = split_evenly(num_lanes, parts)
    assert [lane for share in shares for lane in share] == list(range(num_lanes)) and len(shares) == parts
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    fewest_of_all = min(shipped(tree, cut) for cut in even_splits(num_lanes, parts))
    assert shipped(tree, shares) == fewest_of_all


def even_splits(num_lanes: int, parts: int) -> Iterator[list[range]]:
    """Every cut into contiguous shares whose sizes differ by one at most."""
    small, large = divmod(num_lanes, parts)
    for bigger in itertools.combinations(range(parts), large):
        bounds = [0, *itertools.accumulate(small + (part in bigger) for part in range(parts))]
        yield [range(*pair) for pair in itertools.pairwise(bounds)]


def shipped(tree: LaneTree, shares: Sequence[Sequence[int]]) -> int:
    return sum(len(tree.held(share)) for share in shares)


@pytest.mark.parametrize(
    ("num_lanes", "sizes", "nodes"),
    [(8, [4, 4], 2), (8, [2] * 4, 4), (12, [4, 4, 4], 3), (8, [3, 3, 2], 5), (6, [2, 2, 1, 1], 4), (16, [6, 5, 5], 7)],
)
def test_shares_follow_the_tree(num_lanes: int, sizes: list[int], nodes: int) -> None:
    tree = LaneTree(num_lanes)
    shares = split_evenly(num_lanes, len(sizes))
    assert sorted(map(len, shares), reverse=True) == sizes and shipped(tree, shares) == nodes


def test_a_thousand_workers_are_no_problem() -> None:
    shares = split_evenly(4096, 1000)
    assert len(shares) == 1000 and {len(share) for share in shares} == {4, 5}


def test_strided_lanes_ship_every_lane() -> None:
    """The reason why a plan gives lanes in a row."""
    assert len(LaneTree(16).held(range(0, 16, 2))) == 8


@given(st.integers(1, 40))
@settings(deadline=None)
def test_every_lane_is_one_leaf(num_lanes: int) -> None:
    tree = LaneTree(num_lanes)
    nodes, leaves = [tree.root], []
    while nodes:
        node = nodes.pop()
        children = tree.children(node)
        assert [lane for c in children for lane in lanes_of(tree, c)] in ([], lanes_of(tree, node))
        nodes += children
        leaves += [] if children else [node]
    assert sorted(leaves) == [(lane, 1) for lane in range(num_lanes)]


def test_a_missing_lane_is_an_error_and_sums_need_no_copy() -> None:
    tree = LaneTree(3)
    leaves = {(lane, 1): torch.ones(2) for lane in range(3)}
    total = tree.sum(leaves)
    assert total is leaves[0, 1] and total.tolist() == [3.0, 3.0]
    del leaves[1, 1]
    with pytest.raises(KeyError, match="no value for lane 1"):
        tree.sum(leaves)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@settings(deadline=None)
def test_numbers_are_added_in_the_same_tree(numbers: list[float]) -> None:
    tree = LaneTree(len(numbers))
    leaves = {(lane, 1): torch.tensor(number, dtype=torch.float64) for lane, number in enumerate(numbers)}
    assert tree.sum_numbers(dict(enumerate(numbers))) == float(tree.sum(leaves))
