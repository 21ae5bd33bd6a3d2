"""The sizes of a small job, for probes."""

from __future__ import annotations

from dougong.fingerprint.record import JobShapes

SHAPES = JobShapes(((96, 64), (64, 48), (250, 64)), (1, 7, 16, 33), 4, 16, 32, 64, 48, 8, 250)
