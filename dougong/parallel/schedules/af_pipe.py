"""af_pipe: DisagMoE (arXiv 2605.11005).

Interleaved 1F1B over four stages, two of which are communication.

    attention -> dispatch -> experts -> combine -> attention -> ..

Micro-batches go in groups of at most p = 4, one for each stage, so that all stages have work. With
f1 f2 .. the forwards in the order "group, then segment, then micro-batch of the group", b1 b2 ..
the backwards likewise from the last segment to the first, and w = L*p forwards to warm up (all of
the first group but its last segment):

    attention   f1 .. fw | f(w+1) b1  f(w+2) b2 .. | .. b(last)

One group of forwards replaces one group of backwards, so what is alive is bounded by the group and
not by R. With R <= p this is zebra.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from dougong.parallel.plan import Role
from dougong.parallel.schedules.operation import Operation, backward, forward
from dougong.parallel.schedules.order import lay_out

NUM_STAGES = 4


def af_pipe(num_sites: int, num_microbatches: int, role: Role) -> list[Operation]:
    """Any role. Keeps up to L*p + 1 segments alive, p = min(R, 4), and about as many experts'
    waves."""
    groups = into_groups(num_microbatches, NUM_STAGES)
    forwards: list[Operation] = []
    backwards: list[Operation] = []
    for group in groups:
        for segment in range(num_sites + 1):
            forwards += [forward(segment, j) for j in group]
        for segment in reversed(range(num_sites + 1)):
            backwards += [backward(segment, j) for j in group]
    warm_up = num_sites * len(groups[0])
    return lay_out(_interleaved(forwards, backwards, warm_up), num_sites, role)


def _interleaved(
    forwards: Sequence[Operation], backwards: Sequence[Operation], warm_up: int
) -> list[Operation]:
    """`warm_up` forwards, then a forward and a backward in turn, then the backwards that are
    left."""
    segments = list(forwards[:warm_up])
    for one_forward, one_backward in zip(forwards[warm_up:], backwards, strict=False):
        segments += [one_forward, one_backward]
    segments += backwards[len(forwards) - warm_up :]
    return segments


def into_groups(num_microbatches: int, most: int) -> list[range]:
    """Consecutive groups of at most `most`, as equal as can be, the larger ones first."""
    num_groups = -(-num_microbatches // most)
    size, larger = divmod(num_microbatches, num_groups)
    starts = [group * size + min(group, larger) for group in range(num_groups + 1)]
    return [range(start, end) for start, end in itertools.pairwise(starts)]
