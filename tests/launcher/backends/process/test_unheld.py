"""Devices that living agents hold and a new Ray does not know of."""

from __future__ import annotations

from dougong.launcher.backends.process.unheld import without_unheld
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec

ALPHA = Node("new-a", "alpha", "10.0.0.1", {"npu": 4, "cuda": 2})
BETA = Node("new-b", "beta", "10.0.0.2", {"npu": 4}, free={"npu": 3})
THEN = {"old-a": "10.0.0.1", "old-b": "10.0.0.2"}


def test_no_device_is_free_where_a_living_agent_has_some() -> None:
    west = AgentSpec("west", "west", "both", "npu", 1, 0, 2, node="old-a")
    alpha, beta = without_unheld([ALPHA, BETA], [west], THEN)
    assert (alpha.count("npu"), alpha.count_free("npu"), alpha.count_free("cuda")) == (4, 0, 2)
    assert alpha.holders == ("agent west of this run, of which this Ray knows nothing",)
    assert beta == BETA


def test_workers_that_share_their_machine_take_no_device() -> None:
    east = AgentSpec("east", "east", "both", "cpu", 1, 0, 2, node="old-a")
    assert without_unheld([ALPHA, BETA], [east], THEN) == [ALPHA, BETA]
