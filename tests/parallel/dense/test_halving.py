"""Recursive halving along the lane tree: on any map of lanes every owner's part comes to the tree's sum, and on equal
shares with log2 W messages a worker."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from dougong.parallel.dense.halving import Halving, Round, Share, share_of
from dougong.parallel.tree import LaneTree, TreeNode
from hypothesis import given, settings
from hypothesis import strategies as st

Held = Mapping[int, Sequence[TreeNode]]


def held_of(tree: LaneTree, lanes: Sequence[Sequence[int]]) -> Held:
    return {rank: tree.held(of_rank) for rank, of_rank in enumerate(lanes) if of_rank}


def value_of(tree: LaneTree, node: TreeNode) -> object:
    """A lane, or the two values that are added, in whichever order."""
    below = [value_of(tree, child) for child in tree.children(node)]
    return (frozenset(below) if len(below) == 2 else below[0]) if below else node[0]


Have = dict[tuple[int, int, TreeNode], object]
"""By rank, owner and held node: what a part is there."""


def play(tree: LaneTree, held: Held, owners: Sequence[int]) -> tuple[dict[int, object], dict[int, list[int]]]:
    """By owner what its part comes to, and by rank how many parts it sends, by message."""
    halving = Halving(tree, held)
    shares = {rank: share_of(halving, owners, rank) for rank in held}
    have = {(rank, o, node): value_of(tree, node) for rank in held for node in held[rank] for o in owners}
    sent: dict[int, list[int]] = {rank: [] for rank in held}
    for number in range(len(halving.levels)):
        rounds = {rank: share.rounds[number] for rank, share in shares.items()}
        under_way = send(rounds, have)
        for (rank, _), parts in under_way.items():
            sent[rank].append(len(parts))
        for rank, its in rounds.items():
            add(rank, its, have, under_way)
        assert not under_way, "what is sent is waited for"
    return {owner: have[owner, owner, result_of(shares[owner])] for owner in owners}, sent


Messages = dict[tuple[int, int], list[tuple[int, object]]]


def send(rounds: Mapping[int, Round], have: Have) -> Messages:
    found = {}
    for rank, its in rounds.items():
        for peer, parts in its.sends.items():
            found[rank, peer] = [(owner, have[rank, owner, node]) for owner, node in parts]
    return found


def add(rank: int, its: Round, have: Have, under_way: Messages) -> None:
    for (owner, into), (_, from_) in its.adds:
        have[rank, owner, into] = frozenset([have[rank, owner, into], have[rank, owner, from_]])
    for peer, parts in its.receives.items():
        came = under_way.pop((peer, rank))
        assert [owner for owner, _ in came] == [owner for owner, _ in parts], "both sides have one order"
        for (owner, into), (_, value) in zip(parts, came, strict=True):
            have[rank, owner, into] = frozenset([have[rank, owner, into], value])


def result_of(share: Share) -> TreeNode:
    assert share.result is not None
    return share.result


@given(st.integers(1, 24).flatmap(lambda n: st.lists(st.integers(0, 6), min_size=n, max_size=n)), st.randoms())
@settings(max_examples=300, deadline=None)
def test_every_part_comes_to_the_trees_sum_on_any_map_of_lanes(ranks: list[int], chance: object) -> None:
    lanes = [[lane for lane, rank in enumerate(ranks) if rank == one] for one in range(7)]
    tree = LaneTree(len(ranks))
    held = held_of(tree, lanes)
    owners = chance.sample(sorted(held), chance.randint(1, len(held)))  # type: ignore[attr-defined]
    found, _ = play(tree, held, owners)
    assert all(value == value_of(tree, tree.root) for value in found.values())


@pytest.mark.parametrize("num_workers", [1, 2, 8, 64])
def test_equal_shares_take_log2_messages_each_half_of_the_one_before(num_workers: int) -> None:
    tree = LaneTree(4 * num_workers)
    held = held_of(tree, [range(4 * rank, 4 * rank + 4) for rank in range(num_workers)])
    _, sent = play(tree, held, sorted(held))
    halves = [num_workers >> number for number in range(1, num_workers.bit_length())]
    assert all(parts == halves for parts in sent.values())


def test_a_node_of_lanes_keeps_seven_eighths_of_the_bytes() -> None:
    tree = LaneTree(64)
    crossing = Halving(tree, held_of(tree, [[rank] for rank in range(64)])).crossing(dict.fromkeys(range(64), 1.0))
    within = sum(num for (source, target), num in crossing.items() if source // 8 == target // 8)
    assert within / sum(crossing.values()) == pytest.approx(7 / 8, abs=0.02)


def test_a_node_that_two_workers_share_costs_one_message_more() -> None:
    """Of lanes 0-2 and 3-7 the lower half belongs to both."""
    tree = LaneTree(8)
    for lanes, messages in (([range(4), range(4, 8)], [1]), ([range(3), range(3, 8)], [1, 1])):
        _, sent = play(tree, held_of(tree, lanes), [0, 1])
        assert sent == {0: messages, 1: messages}


def test_bytes_are_counted_as_they_are_sent() -> None:
    tree = LaneTree(11)
    held = held_of(tree, [(0, 1, 2), (3, 4), (5, 6, 7, 8), (9, 10)])
    halving = Halving(tree, held)
    owned = {0: 3.0, 1: 5.0, 3: 7.0}
    counted: dict[tuple[int, int], float] = {}
    for rank, one in itertools.product(held, range(len(halving.levels))):
        for peer, parts in share_of(halving, list(owned), rank).rounds[one].sends.items():
            counted[rank, peer] = counted.get((rank, peer), 0.0) + sum(owned[owner] for owner, _ in parts)
    assert halving.crossing(owned) == counted
