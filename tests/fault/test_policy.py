"""What is done about each class of failure."""

from __future__ import annotations

import pytest
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis, Origin
from dougong.fault.policy import decide
from dougong.job.schema import Fault

DEATH = Diagnosis(Culprit("worker", "east/1"), "crash", "SIGKILL")


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
        ("storage", 0, 1, "restart"),
        ("preemption", 0, 1, "restart"),
        ("data", 0, 3, "fail"),
        ("model", 0, 3, "fail"),
        ("numerics", 0, 3, "fail"),
    ],
)
def test_decisions(kind: str, before: int, allowed: int, action: str) -> None:
    diagnosis = Diagnosis(Culprit("worker", "east/1"), kind, "cause")  # type: ignore[arg-type]
    assert decide(diagnosis, Fault(max_restarts=allowed), [DEATH] * before, has_stepped=False).action == action


def test_the_reason_names_the_knob() -> None:
    assert "fault.max_restarts is 1" in decide(DEATH, Fault(max_restarts=1), [DEATH], True).reason


HERE, THERE = Origin("ValueError", "step.py:97"), Origin("ValueError", "step.py:98")


def exception(origin: Origin | None) -> Diagnosis:
    return Diagnosis(Culprit("worker", "east/0"), "exception", "ValueError: x", origin=origin)


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
    history = [exception(origin) for origin in before]
    decision = decide(exception(now), Fault(max_restarts=9), history, has_stepped)
    assert decision.action == action
    if action == "fail":
        assert decision.reason == (
            "ValueError at step.py:97 came twice with no step in between, so it is taken for one that would come again"
        )
