"""Scratch memory of the ordered sums of dense gradients, before there is a reducer. Imports no
torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from dougong.job.schema import Job
from dougong.parallel.dense.buckets import GRADIENT_BYTES, Bucket, in_halves
from dougong.parallel.dense.halving import Halving, share_of
from dougong.parallel.dense.stretches import scratch_numel, size_of, stretches_of
from dougong.parallel.plan import Plan
from dougong.parallel.tree import LaneTree

MOST_COUNTED = 16
"""Workers with lanes up to which each one's messages are gone through. A worker of more gets all of
a stretch but a share that is smaller than one in so many, so all of it is taken."""


def scratch_bytes(job: Job, plan: Plan, buckets: Sequence[Bucket]) -> list[int]:
    """By rank, as `OrderedReducer` takes it; 0 where a library adds, and on a worker that has all
    lanes."""
    found = [0] * len(plan.workers)
    with_lanes = [worker for worker in plan.workers if worker.lanes]
    is_ordered = job.is_layout_free or job.dense == "shard"
    if not is_ordered or len(with_lanes) < 2:
        return found
    stretches = list(stretches_of(buckets))
    if len(with_lanes) > MOST_COUNTED:
        largest = max((size_of(stretch.parts) for stretch in stretches), default=0)
        for worker in with_lanes:
            found[worker.rank] = GRADIENT_BYTES * largest
        return found
    tree = LaneTree(plan.num_lanes)
    halving = Halving(tree, {worker.rank: tree.held(worker.lanes) for worker in with_lanes})
    owners = in_halves(itertools.chain.from_iterable(bucket.parts for bucket in buckets))
    for worker in with_lanes:
        rounds = share_of(halving, owners, worker.rank).rounds
        found[worker.rank] = GRADIENT_BYTES * scratch_numel(stretches, rounds)
    return found
