"""zebra: HeterMoE (arXiv 2504.03871), theorem 1.

Layer by layer over all micro-batches, forward and then back.

    attention   F(0,1..R) .. F(L-1,1..R) | F(L,1) B(L,1) .. F(L,R) B(L,R) | B(L-1,1..R) .. B(0,1..R)
    experts     F(0,1..R) .. F(L-1,1..R) | B(L-1,1..R) .. B(0,1..R)

Behind every B of the experts come the gradients of their weights, when those of the rows are on
their way.

The stripes: while the experts work on one micro-batch, attention works on the next ones. The paper
counts L blocks of attention and L-1 of experts; here L is the number of sites, so there are L+1
segments.

The order is layer-major on workers of both roles, too, where the experts' work of a site lies
between the segments on its two sides. So the gradients of one layer after the other become
complete: never are more begun than those of the layers that one segment touches.

The theorem says that no order takes less time. A search over all orders of small cases (L, R <= 3,
backwards no shorter than forwards) confirms it where attention takes at least as long as the
experts. Where the experts take a little longer, some other order is up to 2 % faster: it lets them
wait less at the turn-around.
"""

from __future__ import annotations

from dougong.parallel.plan import Role
from dougong.parallel.schedules.operation import Operation, backward, forward
from dougong.parallel.schedules.order import lay_out


def zebra(num_sites: int, num_microbatches: int, role: Role) -> list[Operation]:
    """Any role. Keeps up to L*R + 1 segments and L*R experts' waves alive."""
    microbatches = range(num_microbatches)
    segments = []
    for segment in range(num_sites):
        segments += [forward(segment, j) for j in microbatches]
    for j in microbatches:
        segments += [forward(num_sites, j), backward(num_sites, j)]
    for segment in reversed(range(num_sites)):
        segments += [backward(segment, j) for j in microbatches]
    return lay_out(segments, num_sites, role)
