"""How fast a form is beside another one of the same operator."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from dougong.conform.record import Speedup
from dougong.deadlines import DEADLINES

LEAST, MOST = 5, 25
"""Pairs: as many as the limit allows between these."""


def compare_speed(
    form: Callable[[], Any], plain: Callable[[], Any], wait: Callable[[], None]
) -> Speedup:
    """How many times as fast `form` is as `plain`. `wait`: until the device has computed."""
    for compute in (form, plain):  # what is compiled or loaded at the first call is no speed
        _seconds(compute, wait)
    ratios: list[float] = []
    until = time.perf_counter() + DEADLINES.conform_timing_s
    # In turn: a machine that is slow for a while is so for both.
    while len(ratios) < LEAST or (len(ratios) < MOST and time.perf_counter() < until):
        ratios.append(_seconds(plain, wait) / _seconds(form, wait))
    low, median, high = statistics.quantiles(ratios, n=4)
    return Speedup(times=median, low=low, high=high, pairs=len(ratios))


def _seconds(compute: Callable[[], Any], wait: Callable[[], None]) -> float:
    begun = time.perf_counter()
    compute()
    wait()
    return time.perf_counter() - begun
