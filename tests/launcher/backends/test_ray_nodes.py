"""Which of the nodes that Ray lists answer, and what the planner is told of one. Over a real Ray:
tests/lab/test_places.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.ray_holders import Holders
from dougong.launcher.backends.ray_nodes import Listing, describe, find_silent, without_earlier_lives

TOTAL = {"CPU": 8.0, "NPU": 4.0, "west": 1.0, "memory": 1e9, "node:127.0.0.1": 1.0, "accelerator_type:910": 1.0}
NODE = Listing("a" * 12, "127.0.0.1", 1, "alpha", "first", True, TOTAL, {"CPU": 7.99, "NPU": 1.0}, {"rack": "r1"})


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_node_that_does_not_answer_is_silent_though_it_is_listed_as_alive(port: int) -> None:
    alive, killed = replace(NODE, port=port), replace(NODE, id="b", port=closed_port())
    silent = find_silent([alive, killed], DEADLINES)
    assert list(silent) == ["b"]
    assert silent["b"].startswith(f"does not answer at 127.0.0.1:{killed.port}, though the head lists it still")


def test_of_two_at_one_address_the_newest_is_the_one_that_answers(port: int) -> None:
    old, new = replace(NODE, id="old", port=port, started_ms=1), replace(NODE, id="new", port=port, started_ms=2)
    assert find_silent([old, new], DEADLINES) == {"old": "was started anew since"}
    assert find_silent([new, old], DEADLINES) == {"old": "was started anew since"}


def test_a_node_that_has_left_says_since_when() -> None:
    left = replace(NODE, is_alive=False, ended_ms=1_700_000_000_000)
    assert find_silent([left], DEADLINES)[NODE.id].startswith("has left the cluster (dead since ")
    assert find_silent([replace(left, ended_ms=0)], DEADLINES) == {NODE.id: "has left the cluster"}


def test_a_machine_that_has_died_again_and_again_is_listed_once_as_dead() -> None:
    dead = [replace(NODE, id=str(ended), is_alive=False, ended_ms=ended) for ended in (2, 3, 1)]
    other, back = replace(dead[0], address="127.0.0.2", id="other"), replace(NODE, id="back")
    assert [one.id for one in without_earlier_lives([*dead, other])] == ["3", "other"]
    assert [one.id for one in without_earlier_lives([back, *dead])] == ["back", "3"]


def test_a_node_is_told_with_what_is_free_and_what_its_owner_has_marked_it_with() -> None:
    node = describe(NODE, ["npu", "cuda"], "", Holders())
    assert (node.devices, node.free) == ({"npu": 4, "cuda": 0}, {"npu": 1, "cuda": 0})
    assert (node.cpus, node.free_cpus) == (8.0, 7.99)
    assert node.holders == ("other jobs (3 NPU)",)
    assert node.resources == {"west", "accelerator_type:910"}
    assert node.labels == {"rack": "r1"} and node.title == "alpha (127.0.0.1)"
    fresh = describe(replace(NODE, free=None), ["npu"], "does not answer", Holders())
    assert (fresh.free, fresh.gone) == ({"npu": 4}, "does not answer")
