"""What a micro-batch keeps, as the planner reads it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SegmentBytes:
    """Memory of one lane's micro-batch while one segment runs, beside what the model itself holds.

    forward, backward: the most that is there at a time, beyond what was there before; kept, given
    back: how much more, or less, is there behind it.
    """

    forward: int
    kept: int
    backward: int
    given_back: int


@dataclass(frozen=True)
class Activations:
    """Of a job's micro-batch on one kind of accelerator, segment by segment. `missing`: why nothing
    is known of them, else empty."""

    accelerator: str
    segments: tuple[SegmentBytes, ...]
    missing: str = ""
