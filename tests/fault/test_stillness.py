"""What is learned of how long workers stand still, and the limits that follow."""

from __future__ import annotations

import pytest
from dougong.deadlines import DEADLINES
from dougong.fault.stillness import StillTimes


def learned(still_s: list[float], phase: str = "forward") -> StillTimes:
    times = StillTimes()
    for value in still_s:
        times.note("east/0", phase, value)
        times.step_done()
    return times


@pytest.mark.parametrize(
    ("still_s", "limit_s"),
    [
        ([], DEADLINES.warm_up_s),
        ([0.2, 0.2], DEADLINES.warm_up_s),
        ([0.2, 0.2, 0.2], DEADLINES.hang_s),
        ([2.0, 2.0, 2.5], 7.5),
        ([0.1] * 200 + [9.0], DEADLINES.hang_s),  # once in two hundred steps is not usual
        ([0.1] * 40 + [9.0], 27.0),
        ([9.0] * 3 + [0.1] * 300, DEADLINES.hang_s),  # what was long ago is forgotten
    ],
)
def test_a_limit_is_three_times_the_ninety_ninth_percentile_and_at_least_hang_s(
    still_s: list[float], limit_s: float
) -> None:
    assert learned(still_s).limit_s("east/0", "forward", DEADLINES) == limit_s


@pytest.mark.parametrize(
    ("phase", "key"), [("start", "build_s"), ("validate", "evaluation_s"), ("checkpoint", "commit_checkpoint_s")]
)
def test_phases_that_may_be_long_have_limits_of_their_own(phase: str, key: str) -> None:
    times = learned([0.1] * 10, phase)
    assert times.limit_s("east/0", phase, DEADLINES) == getattr(DEADLINES, key)
    assert key in times.limit_words("east/0", phase, DEADLINES)


def test_of_a_step_in_which_something_was_wrong_nothing_is_learned() -> None:
    times = learned([0.1] * 5)
    times.note("east/0", "forward", 60.0)
    times.spoil()
    times.step_done()
    assert times.limit_s("east/0", "forward", DEADLINES) == DEADLINES.hang_s


def test_what_is_learned_outlives_its_generation_which_warms_up_anew() -> None:
    times = learned([2.0] * 5)
    times.begin_generation()
    assert times.limit_s("east/0", "forward", DEADLINES) == DEADLINES.warm_up_s
    assert times.usual_s("east/0", "forward") == 2.0
    for _ in range(3):
        times.step_done()
    assert times.limit_s("east/0", "forward", DEADLINES) == 6.0


def test_a_limit_says_where_it_comes_from() -> None:
    times = learned([2.0] * 5)
    assert times.limit_words("east/0", "forward", DEADLINES) == "6.0 s (three times what is usual for it there)"
    assert times.limit_words("east/0", "idle", DEADLINES) == "300 s (fault.deadlines.warm_up_s)"
    assert learned([0.1] * 5).limit_words("east/0", "forward", DEADLINES) == "3 s (fault.deadlines.hang_s)"
