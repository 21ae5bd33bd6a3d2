"""What is done about each class of failure."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis, Origin
from dougong.fault.policy import Budget, Decision, PastFailure, decide
from dougong.job.schema import Fault

HOUR_S = 3600.0
NOW = Budget(now=10 * HOUR_S)


def failed(kind: Any = "crash", ago_s: float = 60.0, origin: Origin | None = None, **course: Any) -> PastFailure:
    diagnosis = Diagnosis(Culprit("worker", "east/1"), kind, "cause", origin=origin)
    return PastFailure(1, diagnosis, at_s=NOW.now - ago_s, **course)


def decided(kind: Any, before: list[PastFailure], budget: Budget = NOW, **policy: Any) -> Decision:
    return decide(failed(kind, 0.0), Fault(**policy), before, budget)


@pytest.mark.parametrize(
    ("kind", "before", "allowed", "action"),
    [
        ("crash", 0, 3, "restart"),
        ("crash", 2, 3, "restart"),
        ("crash", 3, 3, "fail"),
        ("crash", 0, 0, "fail"),
        ("out_of_memory", 0, 1, "restart"),
        ("exception", 0, 1, "restart"),
        ("hang", 0, 1, "restart"),
        ("node_lost", 0, 1, "restart"),
        ("partition", 0, 1, "restart"),
        ("device", 0, 1, "restart"),
        ("slow", 0, 1, "restart"),
        ("corruption", 0, 1, "restart"),
        ("storage", 0, 1, "restart"),
        ("preemption", 0, 1, "restart"),
        ("preemption", 9, 0, "restart"),
        ("data", 0, 3, "fail"),
        ("model", 0, 3, "fail"),
        ("numerics", 0, 3, "fail"),
        ("irreproducible", 0, 3, "fail"),
    ],
)
def test_decisions(kind: str, before: int, allowed: int, action: str) -> None:
    assert decided(kind, [failed()] * before, max_restarts=allowed).action == action


def test_the_reason_names_the_knob() -> None:
    assert decided("crash", [failed()], max_restarts=1).reason == "fault.max_restarts is 1 and they are used up"
    assert decided("crash", [failed()]).reason == "recovery 2 of 3"


def test_what_was_long_ago_or_before_a_new_checkpoint_does_not_count() -> None:
    long_ago, lately = [failed(ago_s=HOUR_S + 1)] * 9, [failed(ago_s=30.0)] * 3
    assert decided("crash", long_ago).reason == "recovery 1 of 3"
    assert decided("crash", [*long_ago, *lately]).action == "fail"
    since = Budget(NOW.now, progressed_at=NOW.now - 20.0)
    assert decided("crash", lately, since).reason == "recovery 1 of 3"
    assert decided("crash", lately, Budget(NOW.now, NOW.now - 40.0)).action == "fail"


def test_nobody_pays_for_a_preemption() -> None:
    assert decided("crash", [failed("preemption")] * 9).reason == "recovery 1 of 3"
    assert decided("preemption", [failed()] * 3).reason == "a preemption is not counted"


def test_a_row_of_the_table_is_overridden_by_its_class() -> None:
    assert decided("hang", [], stop_on=("hang",)) == Decision("fail", "fault.stop_on names hang")
    assert decided("crash", [], stop_on=("hang",)).action == "restart"
    assert decided("preemption", [], stop_on=("preemption",)).action == "fail"
    many = [failed("node_lost")] * 4
    assert decided("node_lost", many, per_hour={"node_lost": 5}).reason == "recovery 5 of 5"
    assert decided("node_lost", many, per_hour={"node_lost": 4}).reason == (
        "fault.per_hour.node_lost is 4 and they are used up"
    )
    assert decided("node_lost", [failed()] * 9, per_hour={"node_lost": 1}).action == "restart"
    assert decided("crash", [], per_hour={"crash": 0}).action == "fail"


HERE, THERE = Origin("ValueError", "step.py:97"), Origin("ValueError", "step.py:98")


@pytest.mark.parametrize(
    ("before", "now", "has_stepped", "action"),
    [
        ([HERE], HERE, False, "fail"),
        ([HERE], HERE, True, "restart"),
        ([HERE], THERE, False, "restart"),
        ([HERE, THERE], HERE, False, "restart"),
        ([THERE, HERE], HERE, False, "fail"),
        ([None], None, False, "restart"),
        ([], HERE, False, "restart"),
    ],
)
def test_the_same_cause_twice_with_no_step_in_between_would_come_again(
    before: list[Origin | None], now: Origin | None, has_stepped: bool, action: str
) -> None:
    history = [failed("exception", origin=origin, step=4) for origin in before]
    failure = failed("exception", 0.0, now, has_stepped=has_stepped, step=9)
    decision = decide(failure, Fault(max_restarts=9), history, NOW)
    assert decision.action == action
    if action == "fail":
        assert decision.reason == (
            "ValueError at step.py:97 came twice with no step in between, so it is taken for one that would come again"
        )


def test_the_same_cause_twice_in_one_step_would_come_again_whatever_was_computed_on_the_way() -> None:
    """A checkpoint lies before it: the steps from there on are computed again each time."""
    history = [failed("out_of_memory", origin=HERE, step=28), failed("crash", step=20)]
    again = failed("out_of_memory", 0.0, HERE, has_stepped=True, step=28)
    decision = decide(again, Fault(max_restarts=9), history, NOW)
    assert decision.reason == (
        "ValueError at step.py:97 came twice in step 29, so it is taken for one that would come again"
    )
    later = failed("out_of_memory", 0.0, HERE, has_stepped=True, step=29)
    assert decide(later, Fault(max_restarts=9), history, NOW).action == "restart"
