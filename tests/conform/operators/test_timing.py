"""Two forms are timed in turn: which is faster, and how widely that spreads. Ratios are those of work that is counted,
not of a clock's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dougong.conform.operators import timing
from dougong.conform.operators.timing import LEAST, MOST, compare_speed


class Clock:
    """Goes on by what is computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, list[float]()
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def taking(self, *seconds: float) -> Callable[[], None]:
        """Something that takes so long at each call, the last value from then on."""
        left = list(seconds)

        def compute() -> None:
            self.calls.append(left[0])
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return compute


def test_the_median_counts_and_the_first_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = compare_speed(clock.taking(9.0, 1e-4), clock.taking(9.0, 3e-4), lambda: None)
    assert (found.times, found.low, found.high, found.pairs) == pytest.approx((3.0, 3.0, 3.0, MOST))


def test_a_slow_form_is_timed_a_few_times_and_its_spread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    plain = clock.taking(1.0, 1.0, 1.0, 2.0, 4.0, 4.0)
    found = compare_speed(clock.taking(1.0), plain, lambda: None)
    assert found.pairs == LEAST and found.times == 2.0
    assert found.low == 1.0 and found.high == 4.0
    assert clock.calls[2:4] == [1.0, 1.0] and len(clock.calls) == 2 * (LEAST + 1)


def test_the_device_is_waited_for_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    wait = clock.taking(1.0)
    assert compare_speed(clock.taking(0.0), clock.taking(0.0), wait).times == 1.0
