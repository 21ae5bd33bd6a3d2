"""Which node an island's `node` means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.errors import NoRoomError
from dougong.job.schema import Island
from dougong.planner.nodes import Node, allowed_nodes, listed, words_on_quarantine

A = Node("aaaaaaaaaaaa", "alpha", "10.0.0.1", labels={"rack": "r1"}, given_name="first")
B = Node("bbbbbbbbbbbb", "beta", "fd00::2", labels={"rack": "r2"}, resources=frozenset({"west"}))


def pinned(node: str | None) -> Island:
    accelerator: Any = "cpu"
    return Island(name="east", accelerator=accelerator, workers=1, node=node)


@pytest.mark.parametrize(
    "wish", ["beta", "fd00::2", "[fd00::2]", "fd00:0::0002", "bbbbbbbb", "BBBBBBBB", "rack=r2", "west"]
)
def test_an_island_is_pinned_by_name_address_id_label_or_resource(wish: str) -> None:
    assert allowed_nodes(pinned(wish), [A, B]) == (B,)


def test_a_pin_may_mean_several_nodes_and_no_pin_means_all() -> None:
    twin = replace(A, id="cccccccccccc", name="gamma", address="10.0.0.3")
    assert allowed_nodes(pinned("rack=r1"), [A, B, twin]) == (A, twin)
    assert allowed_nodes(pinned(None), [A, B]) == (A, B)


@pytest.mark.parametrize("wish", ["gamma", "10.0.0.9", "aaaa", "rack=r3", "rack", "north"])
def test_an_unknown_node_is_refused_with_the_nodes_there_are(wish: str) -> None:
    with pytest.raises(NoRoomError) as caught:
        allowed_nodes(pinned(wish), [A, B])
    assert str(caught.value).startswith(
        f"island east is pinned to node {wish!r}; the nodes are: alpha (10.0.0.1), beta (fd00::2); mend islands.east"
    )
    assert not caught.value.is_held


def test_a_node_that_does_not_answer_is_named_and_never_chosen() -> None:
    gone = replace(A, gone="does not answer (dead for 20 s)")
    back = replace(A, id="cccccccccccc")
    assert allowed_nodes(pinned("10.0.0.1"), [gone, back]) == (back,)
    with pytest.raises(
        NoRoomError, match=r"alpha \(10.0.0.1\) is known and does not answer \(dead for 20 s\); the nodes"
    ):
        allowed_nodes(pinned("alpha"), [gone, B])
    with pytest.raises(NoRoomError, match="needs a node, and none answers; the nodes are: none"):
        allowed_nodes(pinned(None), [gone])


def test_of_many_nodes_a_few_are_named() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(100)]).endswith("10, 11 and 88 more")


def test_devices_that_can_be_had_by_number_and_what_is_said_of_them() -> None:
    node = Node("id", "alpha", "10.0.0.1", {"cuda": 3}, keys={"cuda": ("a", "b", "c")}, left_out={"cuda": ("b",)})
    assert node.numbers("cuda") == [0, 2] and node.numbers("npu") == []
    assert node.words_on("cuda", 2) == "alpha (10.0.0.1) has 3 cuda, 1 in quarantine, 2 free"
    assert words_on_quarantine((node,), "npu") == ""
    assert words_on_quarantine((node,), "cuda").startswith("; `dougong resume` with -o 'fault.quarantine.lift=[b]'")
