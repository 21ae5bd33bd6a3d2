"""Nodes of one machine take turns."""

from __future__ import annotations

from dataclasses import replace

from dougong.deadlines import DEADLINES
from dougong.doctor.ask.nodes import NodesHere
from dougong.doctor.ask.observations import Inquiry
from tests.doctor.made import sound, with_facts


def test_a_round_has_one_node_of_each_machine_and_none_that_is_silent() -> None:
    seen = with_facts(sound(4), "n1", machine="boot0")
    seen = with_facts(seen, "n3", machine="")
    inquiry = Inquiry(NodesHere([]), seen, DEADLINES)
    assert list(inquiry.in_turn()) == [["n0", "n2", "n3"], ["n1"]]
    silent = replace(seen, silent={"n2": "gone"})
    assert list(Inquiry(NodesHere([]), silent, DEADLINES).in_turn()) == [["n0", "n3"], ["n1"]]


def test_one_node_is_alone() -> None:
    assert sound(1).is_alone and not sound(2).is_alone
    assert sound().title("n1") == "node1 (10.0.0.2)"
