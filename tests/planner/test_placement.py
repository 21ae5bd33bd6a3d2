"""Where agents go, and which seats they make."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.control.handshake import AgentFacts
from dougong.errors import LaunchError
from dougong.job.schema import Island
from dougong.planner.placement import AgentSpec, Node, lay_out, make_seats, seats_of_job

A = Node("aaaaaaaaaaaa", "alpha", "10.0.0.1", {"cuda": 4}, {"rack": "r1"})
B = Node("bbbbbbbbbbbb", "beta", "10.0.0.2", {"cuda": 2, "npu": 8})


def island(name: str, accelerator: Any = "cuda", workers: int = 2, **more: Any) -> Island:
    return Island(name=name, accelerator=accelerator, workers=workers, **more)


def places(specs: tuple[AgentSpec, ...]) -> list[tuple[str, str | None, int, int, int]]:
    return [(s.name, s.node, s.first_index, s.num_workers, s.first_device) for s in specs]


def test_a_cpu_island_is_one_agent_anywhere() -> None:
    assert places(lay_out([island("east", "cpu", 64)], [A, B])) == [("east", None, 0, 64, 0)]


def test_an_island_of_devices_takes_the_fullest_node_then_the_next() -> None:
    assert places(lay_out([island("gpu", workers=5)], [B, A])) == [("gpu-0", A.id, 0, 4, 0), ("gpu-4", B.id, 4, 1, 0)]


def test_two_islands_share_a_node_without_sharing_a_device() -> None:
    specs = lay_out([island("one", workers=2), island("two", workers=2, node="alpha")], [A])
    assert places(specs) == [("one", A.id, 0, 2, 0), ("two", A.id, 0, 2, 2)]
    hellos = {s.name: hello("alpha") for s in specs}
    assert [(s.name, s.device) for s in make_seats(specs, hellos)] == [
        ("one/0", "cuda:0"), ("one/1", "cuda:1"), ("two/0", "cuda:2"), ("two/1", "cuda:3"),
    ]  # fmt: skip


@pytest.mark.parametrize("wish", ["beta", "10.0.0.2", "bbbbbbbb"])
def test_an_island_is_pinned_by_name_address_or_id(wish: str) -> None:
    assert lay_out([island("east", "cpu", 1, node=wish)], [A, B])[0].node == B.id


def test_an_island_is_pinned_by_label() -> None:
    assert lay_out([island("east", "cpu", 1, node="rack=r1")], [B, A])[0].node == A.id


def test_an_unknown_node_is_refused_with_the_nodes_there_are() -> None:
    with pytest.raises(LaunchError, match=r"'gamma'.*alpha \(10\.0\.0\.1\), beta \(10\.0\.0\.2\).*islands\.east\.node"):
        lay_out([island("east", "cpu", 1, node="gamma")], [A, B])


@pytest.mark.parametrize(("node", "workers", "free"), [(None, 7, 6), ("beta", 3, 2)])
def test_more_workers_than_devices_are_refused_with_the_numbers(node: str | None, workers: int, free: int) -> None:
    with pytest.raises(LaunchError, match=f"asks for {workers} cuda workers.* only {free} devices .*beta has 2 cuda"):
        lay_out([island("gpu", workers=workers, node=node)], [A, B])


def test_no_device_and_one_device_are_told_in_their_number() -> None:
    with pytest.raises(LaunchError, match="asks for 1 cuda worker, one device each, but none is free"):
        lay_out([island("all", workers=2), island("one", workers=1)], [B])
    with pytest.raises(LaunchError, match="asks for 2 cuda workers, one device each, but only 1 device is free"):
        lay_out([island("most", workers=1), island("rest", workers=2)], [B])


def test_seats_come_in_the_order_of_islands_and_indices() -> None:
    specs = lay_out([island("west", "cpu", 2), island("gpu", workers=5)], [A, B])
    hellos = {s.name: hello(f"host-of-{s.name}") for s in specs}
    seats = make_seats(specs, hellos)
    assert [s.name for s in seats] == ["west/0", "west/1", "gpu/0", "gpu/1", "gpu/2", "gpu/3", "gpu/4"]
    assert [s.node for s in seats][-2:] == ["host-of-gpu-0", "host-of-gpu-4"]
    assert seats[-1].device == "cuda:0"


def test_a_dry_run_seats_whatever_the_job_asks_for() -> None:
    seats = seats_of_job([island("gpu", workers=100), island("east", "cpu", 1, role="experts")])
    assert len(seats) == 101
    assert (seats[-1].name, seats[-1].role) == ("east/0", "experts")


def hello(node: str) -> AgentFacts:
    return AgentFacts("east", "east", node, 1, "cpu", None, {"python": "3.11.7"}, {})
