"""Who counts as lost, stalled or hung, from timestamps alone."""

from __future__ import annotations

import pytest
from dougong.deadlines import Deadlines
from dougong.fault.liveness import (
    arrival_words,
    is_last_worker_late,
    late_reason,
    limit_of_stop,
    silence_reason,
    stall_reason,
    stalled,
)
from dougong.parallel.comm.arrival import Arrival

LIMITS = Deadlines(agent_silence_s=10, stall_warning_s=100, last_worker_s=600)


def test_those_stall_whose_progress_stands_still() -> None:
    moved_at = {"east/0": 0.0, "east/1": 90.0, "west/0": 10.0}
    assert stalled(moved_at, 100.0, LIMITS) == ()
    assert stalled(moved_at, 111.0, LIMITS) == ("east/0", "west/0")


@pytest.mark.parametrize(
    ("first_done_at", "now", "expected"), [(None, 9e9, False), (5.0, 605.0, False), (5.0, 606.0, True)]
)
def test_the_first_end_sets_a_time_for_the_others(first_done_at: float | None, now: float, expected: bool) -> None:
    assert is_last_worker_late(first_done_at, now, LIMITS) is expected


def test_a_stop_waits_longer_for_storage_than_for_a_step() -> None:
    assert limit_of_stop({"forward", "exchange"}, False) == "stop_step_s"
    assert limit_of_stop({"idle", "checkpoint"}, False) == limit_of_stop(set(), True) == "commit_checkpoint_s"


def test_reasons_name_the_time_and_the_key() -> None:
    silent = "no heartbeat for 10 s (fault.deadlines.agent_silence_s)"
    assert silence_reason(LIMITS, None) == f"{silent}: stopped, or its node is down or cut off"
    assert silence_reason(LIMITS, False) == f"{silent}, and its machine takes no connection: node down, or cut off"
    takes = "while its machine takes connections: stopped, or it does not answer"
    assert silence_reason(LIMITS, True) == f"{silent}, {takes}"
    assert late_reason(LIMITS) == "still at work 600 s (fault.deadlines.last_worker_s) after the first worker was done"
    assert stall_reason("forward", 7, LIMITS) == "no progress for 100 s, in forward of step 7"
    assert stall_reason("start", 0, LIMITS, "it waits") == "no progress for 100 s, in start of step 0: it waits"


@pytest.mark.parametrize(
    ("arrival", "behind", "words"),
    [
        (Arrival.BEGINS, [], "it has not come to the controller's store"),
        (Arrival.AT_STORE, ["west/0 on node2"], "it waits at the controller's store for west/0 on node2"),
        (Arrival.CONNECTS, [], "it connects to the other workers"),
        (Arrival.CONNECTS, list("abcdefgh"), "it connects to a, b, c, d, e, f and 2 more"),
        (Arrival.BUILDS, [], "it builds its part of the model"),
    ],
)
def test_a_worker_that_has_not_begun_a_step_waits_for_those_that_have_come_less_far(
    arrival: Arrival, behind: list[str], words: str
) -> None:
    assert arrival_words(arrival, behind) == words
