"""Replicas lie on other nodes where there are any, on different workers, and evenly."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from dougong.parallel.plan import Plan
from dougong.parallel.replica_holders import replica_holders, wards_of
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.workers import plan_of


def on_nodes(nodes: str) -> Plan:
    """A plan with one worker per letter, on the node of that name."""
    plan = plan_of("B" * len(nodes), num_lanes=len(nodes), num_experts=len(nodes))
    workers = tuple(dataclasses.replace(w, node=node) for w, node in zip(plan.workers, nodes, strict=True))
    return dataclasses.replace(plan, workers=workers)


TABLE = [
    ("a", 1, [()]),  # nobody else is there
    ("aa", 1, [(1,), (0,)]),  # no other node is
    ("ab", 1, [(1,), (0,)]),
    ("ab", 3, [(1,), (0,)]),  # nobody keeps two of one
    ("aabb", 1, [(2,), (3,), (0,), (1,)]),
    ("abab", 1, [(1,), (0,), (3,), (2,)]),  # in order of nodes: 0 2 1 3
    ("abcc", 1, [(2,), (3,), (0,), (1,)]),
    ("aaab", 1, [(3,), (3,), (3,), (2,)]),  # another node before an even load
    ("abc", 2, [(1, 2), (2, 0), (0, 1)]),
    ("aab", 0, [(), (), ()]),
]


@pytest.mark.parametrize(("nodes", "replicas", "expected"), TABLE)
def test_who_keeps_whose(nodes: str, replicas: int, expected: list[tuple[int, ...]]) -> None:
    assert list(replica_holders(on_nodes(nodes), replicas)) == expected


@given(st.text("abcd", min_size=1, max_size=9), st.integers(0, 3))
def test_any_nodes(nodes: str, replicas: int) -> None:
    holders = replica_holders(on_nodes(nodes), replicas)
    for rank, found in enumerate(holders):
        assert rank not in found and len(set(found)) == len(found) == min(replicas, len(nodes) - 1)
        others = set(nodes) - {nodes[rank]}
        away = {nodes[holder] for holder in found} - {nodes[rank]}
        assert len(away) == min(len(found), len(others)), "as many other nodes as there are"
    kept = [len(wards_of(holders, rank)) for rank in range(len(nodes))]
    assert sum(kept) == sum(map(len, holders))
    if 2 * max(map(nodes.count, nodes)) <= len(nodes) and replicas == 1:
        assert set(kept) == {1}


def searched(nodes: str, replicas: int) -> list[tuple[int, ...]]:
    """The same by a look at everybody for everybody."""
    ring = sorted(range(len(nodes)), key=lambda rank: (nodes.index(nodes[rank]), rank))
    stride = max(map(nodes.count, nodes))
    kept, holders = [0] * len(nodes), [list[int]() for _ in nodes]
    turns = itertools.product(range(min(replicas, len(nodes) - 1)), enumerate(ring))
    for number, (place, owner) in turns:
        known = {nodes[holder] for holder in holders[owner]}
        best, least = owner, (True, True, len(nodes) + 1)
        for ahead in range(len(ring)):
            rank = ring[(place + stride + ahead) % len(ring)]
            cost = (nodes[rank] == nodes[owner], nodes[rank] in known, kept[rank])
            if rank != owner and rank not in holders[owner] and cost < least:
                best, least = rank, cost
            if least <= (False, False, number):
                break
        holders[owner].append(best)
        kept[best] += 1
    return [tuple(found) for found in holders]


@given(st.text("aaaaabcd", min_size=1, max_size=25), st.integers(0, 4))
def test_looks_at_stretches_find_whom_a_search_finds(nodes: str, replicas: int) -> None:
    assert list(replica_holders(on_nodes(nodes), replicas)) == searched(nodes, replicas)
