"""What is done about each class of failure."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis, Origin
from dougong.fault.policy import Budget, Decision, PastFailure, decide, is_given_up, step_decision
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
        ("corruption", 1, 1, "fail"),
        ("storage", 0, 1, "wait_for_storage"),
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
    fails = Decision("fail", "fault.actions.hang is fail")
    assert decided("hang", [], actions={"hang": "fail"}) == fails
    assert decided("crash", [], actions={"hang": "fail"}).action == "restart"
    assert decided("preemption", [], actions={"preemption": "fail"}).action == "fail"
    assert decided("crash", [], actions={"crash": "roll_back"}) == Decision("roll_back", "recovery 1 of 3")
    assert decided("corruption", [], actions={"corruption": "roll_back"}).action == "roll_back"
    assert decided("storage", [], actions={"storage": "restart"}) == Decision("restart", "recovery 1 of 3")
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


GPU = Culprit("device", "GPU-1", "node1")


def broken(is_final: bool = False, device: Culprit = GPU, ago_s: float = 0.0) -> PastFailure:
    return PastFailure(1, Diagnosis(device, "device", "Xid", is_final=is_final), at_s=NOW.now - ago_s)


@pytest.mark.parametrize(
    ("failure", "before", "policy", "action", "given_up"),
    [
        (broken(is_final=True), [], {}, "quarantine", True),
        (broken(), [], {}, "restart", False),
        (broken(), [broken(ago_s=9.0)], {}, "quarantine", True),
        (broken(), [broken(device=Culprit("device", "GPU-2", "node1"))], {}, "restart", False),
        (broken(), [broken(device=Culprit("device", "GPU-1", "node2"))], {}, "restart", False),
        (broken(), [broken()], {"quarantine": {"after": 3}}, "restart", False),
        (broken(), [], {"quarantine": {"after": 1}}, "quarantine", True),
        (broken(is_final=True), [], {"actions": {"device": "restart"}}, "restart", False),
        (broken(is_final=True), [], {"max_restarts": 0}, "fail", True),
        (failed("device"), [failed("device")] * 2, {}, "restart", False),
    ],
)
def test_a_device_that_nobody_can_use_or_that_fails_again_is_given_up(
    failure: PastFailure, before: list[PastFailure], policy: dict[str, Any], action: str, given_up: bool
) -> None:
    """Also where the run ends: a resume does not use it either."""
    assert decide(failure, Fault(**policy), before, NOW).action == action
    assert is_given_up(failure, Fault(**policy), before) is given_up


def test_storage_that_stays_away_is_tried_again_and_counts_as_one_failure() -> None:
    """Each pause is twice as long as the one before."""
    tries = [failed("storage", ago_s=20.0), failed("storage", ago_s=10.0)]
    decision = decided("storage", tries, max_restarts=1)
    assert decision == Decision(
        "wait_for_storage", "try 3 in 4 s; waits 600 s (fault.deadlines.storage_wait_s) at most", 4.0
    )
    assert decided("crash", tries).reason == "recovery 1 of 3"
    late = decided("storage", [failed("storage", ago_s=601.0)])
    assert late.reason == "storage has failed 2 tries: the run waited 600 s (fault.deadlines.storage_wait_s)"
    longer = decided("storage", [failed("storage", ago_s=601.0)], deadlines={"storage_wait_s": 1000.0})
    assert longer.action == "wait_for_storage"


def test_storage_that_fails_again_after_steps_is_another_failure() -> None:
    before = [failed("storage", ago_s=20.0, has_stepped=True)]
    again = failed("storage", 0.0, has_stepped=True)
    assert decide(again, Fault(), before, NOW) == Decision("wait_for_storage", "recovery 2 of 3")
    assert decide(again, Fault(max_restarts=1), before, NOW).action == "fail"


def test_a_step_that_is_not_finite_is_computed_again_before_its_batch_is_left_out() -> None:
    skips = Fault(non_finite="skip")
    assert [step_decision(skips, times) for times in (1, 2)] == ["retry_step", "skip_batch"]
    assert [step_decision(Fault(), times) for times in (1, 2)] == ["fail", "fail"]
