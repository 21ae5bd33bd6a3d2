"""What is told as decided, and a lost agent's place that nobody can take now: the tables."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.fault.policy import Decision
from dougong.fault.replacement import Places, remedy, without_place
from dougong.job.schema import Fault

APART = "nobody is left for the experts"


@pytest.mark.parametrize(
    ("policy", "cannot_shrink", "is_late", "action"),
    [
        ("wait", "", False, "wait"),
        ("wait", "", True, "shrink"),
        ("wait", APART, False, "wait"),
        ("wait", APART, True, "stop"),
        ("shrink", "", False, "shrink"),
        ("shrink", APART, False, "wait"),
        ("shrink", APART, True, "stop"),
        ("stop", "", False, "stop"),
        ("stop", APART, True, "stop"),
    ],
)
def test_what_is_done(policy: str, cannot_shrink: str, is_late: bool, action: str) -> None:
    choice = without_place(Fault.model_validate({"without_spare": policy}), cannot_shrink, is_late)
    assert choice.action == action
    if action == "stop" and policy != "stop":
        assert APART in choice.reason
    elif action != "wait":
        assert f"fault.without_spare is {policy}" in choice.reason


def test_by_default_a_run_waits() -> None:
    assert Fault().without_spare == "wait"


DECIDED = Decision("restart", "recovery 1 of 3")


@pytest.mark.parametrize(
    ("decision", "kind", "places", "measure"),
    [
        (DECIDED, "crash", None, "restart"),
        (DECIDED, "crash", Places(), "restart"),
        (DECIDED, "node_lost", Places(), "replace_node"),
        (DECIDED, "partition", Places(), "replace_node"),
        (DECIDED, "preemption", Places(), "replace_node"),
        (DECIDED, "preemption", None, "restart"),
        (DECIDED, "node_lost", Places(spare="a spare"), "replace_by_spare"),
        (DECIDED, "crash", Places(spare="a spare"), "replace_by_spare"),
        (DECIDED, "node_lost", Places(node="node1", is_theirs=True), "restart"),
        (DECIDED, "crash", Places(node="node2"), "replace_node"),
        (Decision("quarantine", "x"), "device", Places(spare="a spare"), "quarantine"),
        (Decision("roll_back", "x"), "corruption", None, "roll_back"),
        (Decision("wait_for_storage", "x"), "storage", None, "wait_for_storage"),
        (Decision("fail", "x"), "node_lost", Places(spare="a spare"), "fail"),
    ],
)
def test_what_is_told(decision: Decision, kind: Any, places: Places | None, measure: str) -> None:
    told = remedy(decision, kind, places)
    assert told.measure == measure
    assert told.reason.startswith(decision.reason)
    assert ("a spare" in told.reason) is (measure == "replace_by_spare")
