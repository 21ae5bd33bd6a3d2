"""Devices that pretend to be slow, so that schedules can be tried without them.

The computation is the real one; what it took less than the emulated device would is slept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dougong.parallel.exchange.channel import EmulatedLink


@dataclass(frozen=True)
class Emulation:
    """How long an emulated device takes.

    `segment_s`: seconds for a forward segment of attention, all local lanes together; `row_s`:
    seconds for each row of experts. A backward takes twice as long; one half of the experts' is for
    the gradients of their weights. `link`: its connection to other workers.
    """

    segment_s: float = 0.0
    row_s: float = 0.0
    link: EmulatedLink | None = None

    def forward_s(self) -> float:
        """Seconds of a forward segment."""
        return self.segment_s

    def backward_s(self) -> float:
        """Seconds of a backward segment."""
        return 2 * self.segment_s

    def experts_s(self, num_rows: int) -> float:
        """Seconds of the experts for so many rows: forward, gradients of rows, or of weights."""
        return self.row_s * num_rows


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """Sleep at the end of the block until it has taken that long."""
    begun = time.perf_counter()
    yield
    rest = seconds - (time.perf_counter() - begun)
    if rest > 0:
        time.sleep(rest)
