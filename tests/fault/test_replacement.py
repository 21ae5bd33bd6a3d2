"""A lost agent's place that nobody can take now: the table."""

from __future__ import annotations

import pytest
from dougong.fault.replacement import without_place
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
