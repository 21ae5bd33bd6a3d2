"""serial: disaggregation without a pipeline (HeterMoE's DistEP).

One micro-batch after the other; nothing overlaps.

    attention   F(0,1) .. F(L,1) B(L,1) .. B(0,1) | F(0,2) .. B(0,2) | ..
    experts     F(0,1) .. F(L-1,1) B(L-1,1) W(L-1,1) .. B(0,1) W(0,1) | F(0,2) .. | ..

The yardstick of the others: a step takes the sum of all its parts, the gradients of the experts'
weights (W) included, before which nothing is sent.
"""

from __future__ import annotations

from dougong.parallel.plan import Role
from dougong.parallel.schedules.operation import Operation, backward, forward
from dougong.parallel.schedules.order import lay_out


def serial(num_sites: int, num_microbatches: int, role: Role) -> list[Operation]:
    """Any role. Keeps one micro-batch alive."""
    return lay_out(
        one_after_the_other(num_sites, num_microbatches), num_sites, role, weights_wait=False
    )


def one_after_the_other(num_sites: int, num_microbatches: int) -> list[Operation]:
    """The segments of each micro-batch forward and back, before the next one begins."""
    segments = []
    for microbatch in range(num_microbatches):
        segments += [forward(segment, microbatch) for segment in range(num_sites + 1)]
        segments += [backward(segment, microbatch) for segment in reversed(range(num_sites + 1))]
    return segments
