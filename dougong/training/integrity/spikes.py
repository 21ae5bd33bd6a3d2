"""Which losses are worth a second look. Pure.

A spike accuses nobody: batches differ, and training has spikes of its own. It only says of which
step a second computation is worth its time.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

KEPT = 64
"""Losses of steps before."""
LEAST = 16
"""Fewer say nothing of what is usual."""
FAR = 8.0
"""Robust standard deviations above the median: of numbers that are normally distributed about one
in 10**15 is."""
_OF_MAD = 1.4826
"""Makes the median absolute deviation of a normal distribution its standard deviation."""


class LossWatch:
    """The losses of a run's newest steps; the same on every worker, since losses are."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=KEPT)

    def is_spike(self, loss: float) -> bool:
        """Whether a loss is far above those before; it is one of them from now on. One that is not
        finite is no spike: other rules look at it."""
        if not math.isfinite(loss):
            return False
        known = list(self._losses)
        self._losses.append(loss)
        if len(known) < LEAST:
            return False
        median = statistics.median(known)
        deviation = _OF_MAD * statistics.median(abs(one - median) for one in known)
        return loss - median > FAR * max(deviation, 1e-3 * abs(median))
