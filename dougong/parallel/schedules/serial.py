"""serial: disaggregation without a pipeline (HeterMoE's DistEP). One micro-batch after the other; nothing overlaps.

    attention   F(0,1) .. F(L,1) B(L,1) .. B(0,1) | F(0,2) .. B(0,2) | ..
    experts     F(0,1) .. F(L-1,1) B(L-1,1) .. B(0,1) | F(0,2) .. | ..

The yardstick of the others: a step takes the sum of all its parts.
"""

from __future__ import annotations

from dougong.parallel.schedules.operation import Operation, Role, backward, forward
from dougong.parallel.schedules.order import lay_out


def serial(num_sites: int, num_microbatches: int, role: Role) -> list[Operation]:
    """Any role; a worker of both does what `colocated` does. Keeps one micro-batch alive."""
    segments = []
    for microbatch in range(num_microbatches):
        segments += [forward(segment, microbatch) for segment in range(num_sites + 1)]
        segments += [backward(segment, microbatch) for segment in reversed(range(num_sites + 1))]
    return lay_out(segments, num_sites, role)
