"""What snapshots of the state take: memory of every worker, and messages to those who keep
replicas. Formulas of the job and the plan; imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dougong.job.fault.snapshots import Snapshots
from dougong.job.optimizers.declaration import FLOAT32_BYTES
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.ops.sizes import rounded_up
from dougong.parallel.pieces import owned_specs
from dougong.parallel.plan import Inventory, Plan
from dougong.parallel.replica_holders import replica_holders

NUM_SLOTS = 2
"""Snapshots that are kept of one worker: the newest whole one, and the next (why two are enough:
`training/memory/state_memory.py`)."""
ALIGNMENT = 8
"""Of every tensor in a snapshot, in bytes: the widest item that a state holds."""


@dataclass(frozen=True)
class PartSize:
    """One worker's state after a step: the bytes of its tensors, and how many they are."""

    num_bytes: int
    num_tensors: int

    def __add__(self, other: PartSize) -> PartSize:
        return PartSize(self.num_bytes + other.num_bytes, self.num_tensors + other.num_tensors)

    def __mul__(self, times: int) -> PartSize:
        return PartSize(self.num_bytes * times, self.num_tensors * times)


def part_sizes(job: Job, inventory: Inventory, plan: Plan) -> list[PartSize]:
    """By rank. Every tensor counts as updated."""
    kinds = declaration_of(job.optimizer).state_kinds
    like, numbers = (
        [k for k in kinds if k.like_parameter],
        [k for k in kinds if not k.like_parameter],
    )

    def size_of(num_parameters: int, is_trained: bool = True) -> PartSize:
        moments = len(like) if is_trained else 0
        singles = len(numbers) if is_trained else 0
        num_bytes = aligned(FLOAT32_BYTES * num_parameters) + singles * ALIGNMENT
        num_bytes += moments * aligned(job.optimizer.state_item_bytes * num_parameters)
        return PartSize(num_bytes, 1 + moments + singles)

    found = [PartSize(0, 0) for _ in plan.workers]
    for number, site in enumerate(inventory.sites):
        trained = dict(inventory.trained_shapes(site))
        expert = PartSize(0, 0)
        for name, shape in inventory.expert_shapes:
            expert += size_of(math.prod(shape), name in trained)
        for worker in plan.workers:
            found[worker.rank] += expert * len(worker.experts[number])
    for tensor, owner in owned_specs(inventory.tensors, plan.owners):
        found[owner] += size_of(tensor.num_parameters, tensor.trainable)
    return found


def aligned(num_bytes: int) -> int:
    """Room of a tensor in a snapshot."""
    return rounded_up(num_bytes, ALIGNMENT)


@dataclass(frozen=True)
class SnapshotBytes:
    """Host memory of one worker's snapshots: of its own state, and of those that it keeps for
    others."""

    own: int
    replicas: int

    @property
    def total(self) -> int:
        return self.own + self.replicas


def snapshot_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[SnapshotBytes]:
    """By rank; nothing where the job keeps none, or a worker is alone."""
    if not takes_snapshots(job, plan):
        return [SnapshotBytes(0, 0) for _ in plan.workers]
    sizes = [part.num_bytes for part in part_sizes(job, inventory, plan)]
    holders = replica_holders(plan, job.fault.snapshots.num_replicas)
    # What is being written to a node's disk is kept apart when its slot is taken.
    num_own = NUM_SLOTS + (1 if job.fault.snapshots.local is not None else 0)
    kept = [0] * len(sizes)
    for own, of_owner in zip(sizes, holders, strict=True):
        for holder in of_owner:
            kept[holder] += own
    pairs = zip(sizes, kept, strict=True)
    return [SnapshotBytes(num_own * own, NUM_SLOTS * others) for own, others in pairs]


def keeps_snapshots(settings: Snapshots, plan: Plan) -> bool:
    """Whether workers keep the run's state in memory: the job wants it, and there is room."""
    return settings.are_kept and plan.has_snapshots


def takes_snapshots(job: Job, plan: Plan) -> bool:
    """Whether that is done beside the steps: a worker that is alone would lose them with itself,
    but for those on disk, and copies its state when it leaves."""
    settings = job.fault.snapshots
    is_of_use = len(plan.workers) > 1 or settings.local is not None
    return is_of_use and keeps_snapshots(settings, plan)
