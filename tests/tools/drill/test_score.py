"""Class and culprit of a diagnosis against the vocabulary, and when what happened."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from dougong.fault.culprit import Culprit, CulpritKind
from dougong.records.event.storage import StorageTroubled
from dougong.records.events import (
    DrillFired,
    Event,
    FailureDiagnosed,
    FirstStep,
    Recovered,
    RunEnded,
    Suspected,
    SuspicionEnded,
)
from dougong.tools.drill.score import Struck, drills_of, judge


def at(event: Event, seconds: float) -> Event:
    return event.model_copy(update={"monotonic_s": seconds})


def goes_on(seconds: float, kind: CulpritKind, name: str) -> Event:
    """It was suspected, and it was nothing."""
    return at(SuspicionEnded(generation=1, culprit=Culprit(kind, name), seconds=0.5), seconds)


def named(seconds: float, kind: str, culprit: CulpritKind, name: str, generation: int = 1) -> Event:
    values: dict[str, Any] = {"class": kind, "cause": "x", "culprit": Culprit(culprit, name)}
    return at(FailureDiagnosed(generation=generation, latency_s=0.2, **values), seconds)


def full(seconds: float) -> Event:
    return at(StorageTroubled(generation=1, what="the run's records", reason="No space left on device"), seconds)


def first_step(seconds: float, generation: int = 2) -> Event:
    return at(FirstStep(generation=generation, step=5), seconds)


KILL, STOP, PAUSE = Struck("kill", "a/0", 10.0), Struck("stop", "a/0", 10.0), Struck("pause", "a/0", 10.0)


@pytest.mark.parametrize(
    ("struck", "event", "is_right"),
    [
        (KILL, named(10.5, "crash", "worker", "a/0"), True),
        (KILL, named(10.5, "crash", "worker", "a/1"), False),
        (KILL, named(10.5, "hang", "worker", "a/0"), False),
        (KILL, None, False),
        (STOP, named(14, "hang", "worker", "a/0"), True),
        (Struck("kill_agent", "a/0", 10.0), named(10.5, "crash", "agent", "a"), True),
        (Struck("kill_agent", "a/0", 10.0), named(10.5, "crash", "worker", "a/0"), False),
        (Struck("kill_agent", "a/0", 10.0), named(10.5, "crash", "agent", "b"), False),
        (Struck("kill_node", "a/0", 10.0), named(10.5, "node_lost", "node", "node1"), True),
        (Struck("pull_cable", "a/0", 10.0), named(10.5, "node_lost", "node", "node1"), True),
        (Struck("pull_cable", "a/0", 10.0), named(10.5, "partition", "link", "node1"), True),
        (Struck("pull_cable", "a/0", 10.0), named(10.5, "hang", "link", "node1"), False),
        (Struck("kill_node", "a/0", 10.0, "node1"), named(10.5, "node_lost", "node", "node1"), True),
        (Struck("kill_node", "a/0", 10.0, "node1"), named(10.5, "node_lost", "node", "node2"), False),
        (Struck("drop_in", "a/0", 10.0, "node1"), named(10.5, "partition", "link", "node0 - node1"), True),
        (Struck("drop_in", "a/0", 10.0, "node1"), named(10.5, "partition", "link", "node0 - node2"), False),
        (Struck("fill_run_directory", "a/0", 10.0), full(10.5), True),
        (Struck("fill_run_directory", "a/0", 10.0), None, False),
        (Struck("kill_controller", "", 10.0), named(10.5, "crash", "controller", "1"), True),
        (Struck("nan", "a/0", 10.0), named(10.5, "corruption", "workers", ""), True),
        (Struck("nan", "a/0", 10.0), named(10.5, "corruption", "worker", "b/0"), False),
        (PAUSE, full(10.5), True),
        (PAUSE, None, True),
        (PAUSE, named(14, "hang", "worker", "a/0"), False),
        (Struck("kill_fork_server", "a/0", 10.0), None, True),
        (Struck("stop_fork_server", "a/0", 10.0), None, False),
        (Struck("stop_fork_server", "a/0", 10.0), named(13, "hang", "fork_server", "a"), True),
        (Struck("stop_fork_server", "a/0", 10.0), goes_on(11, "fork_server", "a"), True),
        (Struck("stop_fork_server", "a/0", 10.0), goes_on(11, "worker", "a/0"), False),
        (STOP, goes_on(11, "worker", "b/0"), False),
        (KILL, goes_on(11, "worker", "a/0"), False),
    ],
)
def test_a_diagnosis_is_right_or_wrong(struck: Struck, event: Event | None, is_right: bool) -> None:
    (verdict,) = judge([struck], [event] if event is not None else [])
    assert verdict.is_right is is_right
    assert ("WRONG" in str(verdict)) is not is_right


@pytest.mark.parametrize(
    ("who", "ended", "end_s", "is_right"),
    [
        ("a", "finished", 14.0, True),
        ("b", "finished", 14.0, False),
        ("a", "failed", 14.0, False),
        ("a", "finished", 40.0, False),  # it should have been given up long before
    ],
)
def test_a_hang_that_is_suspected_as_the_run_ends_needs_no_name(
    who: str, ended: Literal["finished", "failed"], end_s: float, is_right: bool
) -> None:
    culprit = Culprit("fork_server", who)
    suspected = at(Suspected(generation=1, culprit=culprit, why="x", since_s=0.5, limit="3 s"), 10.6)
    end = at(RunEnded(generation=1, kind=ended, step=30, failure=None), end_s)
    (verdict,) = judge([Struck("stop_fork_server", "a/0", 10.0)], [suspected, end])
    assert verdict.is_right is is_right


def test_the_times_are_counted_from_the_fault() -> None:
    recovered = at(Recovered(generation=2, failed=1, noticed_s=0, decided_s=0, left_s=0, begun_s=0, first_step_s=1,
                             tiers={"own": 5, "peer": 9}), 11.0)  # fmt: skip
    (verdict,) = judge([KILL], [named(10.5, "crash", "worker", "a/0"), first_step(11.5), recovered])
    assert (verdict.suspected_s, verdict.acted_s, verdict.recovered_s, verdict.tier) == (0.3, 0.5, 1.5, "peer")
    assert str(verdict) == "kill a/0: crash of a/0 after 0.50 s, training again after 1.50 s (peer)"
    assert verdict.to_json()["culprits_expected"] == ("worker",)


def test_a_suspicion_comes_before_the_name() -> None:
    suspected = at(Suspected(generation=1, culprit=Culprit("worker", "a/0"), why="x", since_s=0.5, limit="3 s"), 10.6)
    (verdict,) = judge([STOP], [suspected, named(13.2, "hang", "worker", "a/0")])
    assert (verdict.suspected_s, verdict.acted_s) == (0.6, 3.2)


def test_who_is_replaced_for_the_first_fault_is_not_missed_for_the_second() -> None:
    second = Struck("stop", "b/0", 10.4)
    verdicts = judge([KILL, second], [named(10.5, "crash", "worker", "a/0"), first_step(11)])
    assert [verdict.is_right for verdict in verdicts] == [True, True]
    both = judge([KILL, second], [named(10.3, "crash", "worker", "a/0"), named(14, "hang", "worker", "b/0", 2)])
    assert [(verdict.kind, verdict.is_right) for verdict in both] == [("crash", True), ("hang", True)]


def test_a_false_alarm_is_somebodys() -> None:
    verdicts = judge([KILL], [named(10.5, "crash", "worker", "a/0"), named(20, "hang", "worker", "e/0", 2)])
    assert not verdicts[0].is_right


def test_a_run_announces_its_drills() -> None:
    fired = at(DrillFired(generation=1, worker="a/0", step=3, action="stop"), 9.0)
    assert drills_of([fired, first_step(10)]) == (Struck("stop", "a/0", 9.0),)
