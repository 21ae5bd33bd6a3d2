"""Agents that stand by: how many, where, and whose places they take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.job.schema import Island
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec, devices_of, lay_out, make_seats
from dougong.planner.reserve import Gap, fill_gaps, gaps, lay_out_reserve, missing_workers, take_places

A = Node("aaaaaaaaaaaa", "alpha", "10.0.0.1", {"cuda": 4}, cpus=4)
B = Node("bbbbbbbbbbbb", "beta", "10.0.0.2", {"cuda": 4}, cpus=4)
C = Node("cccccccccccc", "gamma", "10.0.0.3", {"cuda": 4}, cpus=4)


def island(name: str = "east", accelerator: Any = "cuda", workers: int = 4, **more: Any) -> Island:
    return Island(name=name, accelerator=accelerator, workers=workers, **more)


def reserve(
    islands: list[Island], nodes: list[Node], kept: Any, shared: bool = True
) -> list[tuple[str, Any, int, int]]:
    found = lay_out_reserve(islands, nodes, shared, kept)
    return [(spec.name, spec.node, spec.first_device, spec.num_places) for spec in found.specs]


def test_a_spare_is_as_large_as_the_islands_largest_agent_and_on_another_machine() -> None:
    east = island(workers=6, spares=1)
    kept = lay_out([east], [A, B])
    assert [spec.num_workers for spec in kept] == [4, 2]
    (spare,) = lay_out_reserve([east], [A, B, C], True, kept).specs
    assert (spare.name, spare.node, spare.num_places, spare.workers) == ("east-spare-1", C.id, 4, ())
    assert spare.stands_by and list(devices_of(spare).values()) == [f"cuda:{i}" for i in range(4)]


def test_those_that_stand_by_already_count() -> None:
    east = island(spares=2)
    kept = list(lay_out([east], [A]))
    kept += lay_out_reserve([east], [A, B, C], True, kept).specs
    assert [(spec.name, spec.node) for spec in kept[1:]] == [("east-spare-1", B.id), ("east-spare-2", C.id)]
    assert reserve([east], [A, B, C], kept) == []
    assert reserve([east], [A, B, C], kept[:2]) == [("east-spare-2", C.id, 0, 4)]


def test_on_the_only_machine_a_spare_begins_behind_the_workers_devices() -> None:
    east = island(workers=2, spares=1)
    kept = lay_out([east], [A])
    assert reserve([east], [A], kept) == [("east-spare-1", A.id, 2, 2)]
    assert reserve([east], [replace(A, free={"cuda": 2})], kept, shared=False) == [("east-spare-1", A.id, 0, 2)]


def test_a_machine_without_workers_comes_before_one_with_those_of_another_island() -> None:
    islands = [island("east", "cpu", 2, spares=1), island("west", "cpu", 2)]
    kept = lay_out(islands, [A, B])
    assert [name for name, *_ in reserve(islands, [A, B, C], kept)] == ["east-spare-1"]
    assert reserve(islands, [A, B, C], kept)[0][1] == C.id
    east = next(spec for spec in kept if spec.island == "east")
    assert reserve(islands, [A, B], kept)[0][1] != east.node


def test_what_has_no_room_is_told() -> None:
    east = island(spares=1)
    found = lay_out_reserve([east], [A], True, lay_out([east], [A]))
    assert found.specs == () and found.short == (
        "island east: an agent that stands by needs 4 cuda on one node, and no node has so many free",
    )
    pinned = island(spares=1, node="alpha")
    assert "is pinned to node 'alpha'" in lay_out_reserve([pinned], [B], True, lay_out([pinned], [A])).short[0]


def test_missing_workers_are_stood_by_for_be_it_by_fewer() -> None:
    east = island()
    assert reserve([east], [replace(A, free={"cuda": 3})], [], shared=False) == [("east-spare-1", A.id, 0, 3)]
    assert gaps(east, []) == [Gap(0, 4)] and missing_workers([east], []) == tuple(f"east/{i}" for i in range(4))


def spec(name: str, first: int, count: int, room: int | None = None, kind: str = "cuda") -> AgentSpec:
    return AgentSpec(name, "east", "both", kind, 1, first, count, node=A.id, room=room)


def test_the_smallest_that_is_large_enough_takes_a_place() -> None:
    lost = [spec("east-0", 0, 2), spec("east-2", 2, 4)]
    standing = [spec("large", 6, 0, 4), spec("small", 6, 0, 2)]
    taken = take_places(lost, standing)
    assert {name: (one.name, one.workers) for name, one in taken.items()} == {
        "east-0": ("small", ("east/0", "east/1")),
        "east-2": ("large", ("east/2", "east/3", "east/4", "east/5")),
    }
    assert take_places(lost[1:], standing[1:]) == {}
    assert take_places([replace(lost[0], island="west")], standing) == {}


def test_workers_that_share_a_machine_are_as_many_as_one_likes() -> None:
    (taken,) = take_places([spec("east", 0, 6, kind="cpu")], [spec("spare", 6, 0, 1, kind="cpu")]).values()
    assert taken.num_workers == 6 and not taken.stands_by


@pytest.mark.parametrize(("room", "workers"), [(2, ["east/2", "east/3"]), (1, ["east/2"]), (4, ["east/2", "east/3"])])
def test_a_gap_is_filled_as_far_as_there_is_room(room: int, workers: list[str]) -> None:
    east = island()
    (one,) = fill_gaps([east], [spec("east-0", 0, 2)], [spec("spare", 4, 0, room)])
    assert list(one.workers) == workers


def test_an_agent_that_stands_by_has_no_seat() -> None:
    assert make_seats([spec("spare", 4, 0, 2)], {}) == ()
