"""Are a job's ports enough for what is to listen on each node?"""

from __future__ import annotations

import dataclasses

import pytest
from dougong.addresses import Ports
from dougong.errors import LaunchError
from dougong.planner.listeners import check_ports
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec

NODES = (Node("id-0", "node0", "10.0.0.1"), Node("id-1", "node1", "10.0.0.2"))
EAST = AgentSpec("east", "east", "both", "cpu", 1, 0, 2, node="id-0")
WEST = dataclasses.replace(EAST, name="west", island="west", num_workers=4, node="id-1")
SOUTH = dataclasses.replace(WEST, name="south", island="south", num_workers=1)


@pytest.mark.parametrize("ports", [None, Ports(20000, 20026)])
def test_enough_ports_are_none_too_few(ports: Ports | None) -> None:
    check_ports(ports, (EAST, WEST, SOUTH), NODES, "10.0.0.1")


def test_the_node_that_needs_more_is_named_with_what_would_do() -> None:
    with pytest.raises(LaunchError) as caught:
        check_ports(Ports(20000, 20015), (EAST, WEST, SOUTH), NODES, "10.0.0.1")
    words = str(caught.value)
    assert words == (
        "ports 20000-20015 are 16: too few for node1, which needs 27: 5 for each of 5 workers, 1 for each of 2 "
        "agents; widen `ports` (or DOUGONG_PORTS) to 27 or more, such as 20000-20026, or lower islands.*.workers"
    )
    check_ports(Ports.read("20000-20026"), (EAST, WEST, SOUTH), NODES, "10.0.0.1")


def test_the_controller_counts_where_it_is_and_an_agent_without_a_node_on_the_only_one() -> None:
    anywhere = dataclasses.replace(EAST, node=None)
    check_ports(Ports(65523, 65535), (anywhere,), NODES[:1], "10.0.0.1")
    with pytest.raises(LaunchError, match=r"node0, which needs 13: .*, 2 for the controller; .* such as 65523-65535"):
        check_ports(Ports(65524, 65535), (anywhere,), NODES[:1], "10.0.0.1")
    check_ports(Ports(65525, 65535), (anywhere,), NODES[:1], "10.0.0.9")
