"""Steps of which nothing would be learnt, found before the first one. Imports no torch."""

from __future__ import annotations

import numpy as np

from dougong.data.mixture import Mixture

_MOST_AT_ONCE = 1 << 16
MOST_STEPS = 1 << 24
"""Further ones are not looked at: it would take minutes."""


def first_dead_step(mixture: Mixture, steps: int, samples_of_step: int) -> int | None:
    """The first of a job's steps, counted from 1, none of whose samples has a target; None where
    each has one.

    Of a step's samples the next one is looked at only where all before it have none, so of most
    steps one is. The first `MOST_STEPS` are looked at.
    """
    first, count = 1, 1
    last = min(steps, MOST_STEPS)
    while first <= last:
        waiting = np.arange(first, min(first + count, last + 1), dtype=np.int64)
        first, count = first + count, min(2 * count, _MOST_AT_ONCE)
        for place in range(samples_of_step):
            waiting = waiting[~mixture.is_learnt((waiting - 1) * samples_of_step + place)]
            if waiting.size == 0:
                break
        else:
            return int(waiting[0])
    return None
