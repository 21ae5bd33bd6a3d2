"""Workers whose parts are exchanged: who takes over whose, and what a world is called by then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dougong.parallel.comm.world import World
from dougong.parallel.exchange.recast import RecastWorld, exchanged_parts


@pytest.mark.parametrize(("kinds", "expected"), [
    (["both", "both"], (1, 0)),
    (["both"], (0,)),
    (["attention", "experts", "both"], (0, 1, 2)),
    (["attention", "experts", "attention", "experts", "attention"], (2, 3, 4, 1, 0)),
])  # fmt: skip
def test_each_takes_over_the_next_one_of_its_kind(kinds: list[str], expected: tuple[int, ...]) -> None:
    assert exchanged_parts(kinds) == expected
    assert sorted(expected) == list(range(len(kinds))), "each part once"


def test_with_each_turn_another_one_takes_it_over() -> None:
    kinds = ["both"] * 4 + ["experts"] * 2
    turns = [exchanged_parts(kinds, turn) for turn in range(4)]
    assert [parts[0] for parts in turns] == [1, 2, 3, 1], "never its own"
    assert all(parts[4:] == (5, 4) for parts in turns), "of two, always the other"
    assert all(sorted(parts) == list(range(6)) for parts in turns), "each part once"


def test_a_rank_is_called_as_the_process_that_has_it() -> None:
    world = World.alone()
    world.member = replace(world.member, size=3, names=("a", "b", "c"))
    world.size = 3
    awaited: list[list[int]] = []
    world.member = replace(world.member, awaits=lambda ranks: awaited.append(list(ranks)))
    recast = RecastWorld(world, (1, 2, 0))
    assert recast.rank == 1 and recast.member.names == ("c", "a", "b")
    recast.member.awaits([2])
    assert awaited == [[1]], "the health plane hears of processes"
    assert recast.native is None and recast.member.native_peers == frozenset()
