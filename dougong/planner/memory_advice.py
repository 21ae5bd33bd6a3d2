"""What helps a worker that ran out of memory, by what the plan says of its state. Pure."""

from __future__ import annotations

from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan
from dougong.planner.needs.holdings import by_worker, state_bytes
from dougong.planner.needs.refusal import gb
from dougong.planner.needs.snapshot_bytes import snapshot_bytes

_MOST_STATE = 0.8
"""A part of the memory: with more of it taken by state there is hardly room to compute."""


def memory_advice(
    job: Job, inventory: Inventory, plan: Plan, worker: str, memory_bytes: int | None, shared: bool
) -> str:
    """One sentence: how many bytes the state takes, of how many, and which keys make it less.

    `memory_bytes`: of the worker's device, of its machine where workers share one (`shared`); None
    where it is not known.
    """
    used, who = _used_bytes(job, inventory, plan, worker, shared)
    state = f"weights, gradients and optimizer state of {who} take {gb(used)}"
    if memory_bytes is None:
        return (
            f"{state}; where a device has less, give the job more workers; where it has more, the "
            f"rest is activations: {_fewer_activations(job)}"
        )
    state += f" of {gb(memory_bytes)}"
    kept = _snapshots_there(job, inventory, plan, worker) if shared else 0
    if used <= _MOST_STATE * memory_bytes < used + kept:
        return (
            f"{state}, and snapshots {gb(kept)}: set fault.snapshots.replicas: 0, or "
            "fault.snapshots.every: 0"
        )
    if used <= _MOST_STATE * memory_bytes:
        return f"{state}, so the rest is activations: {_fewer_activations(job)}"
    place = "workers on more machines" if shared else "more workers"
    island = plan.worker(worker).island
    return (
        f"{state}: no batch is small enough for that; give island {island} {place}, or train a "
        "smaller model"
    )


def _used_bytes(
    job: Job, inventory: Inventory, plan: Plan, worker: str, shared: bool
) -> tuple[float, str]:
    """The bytes that count against one memory, and whose they are in words."""
    sizes = by_worker(plan, state_bytes(job, inventory, plan))
    if not shared:
        return sizes[worker], worker
    node = plan.worker(worker).node
    there = [w.name for w in plan.workers if w.node == node]
    total = sum(sizes[name] for name in there)
    return total, worker if len(there) == 1 else f"the {len(there)} workers on {node}"


def _snapshots_there(job: Job, inventory: Inventory, plan: Plan, worker: str) -> int:
    """Bytes of the snapshots on a worker's machine."""
    sizes = by_worker(plan, [part.total for part in snapshot_bytes(job, inventory, plan)])
    node = plan.worker(worker).node
    return sum(sizes[other.name] for other in plan.workers if other.node == node)


def _fewer_activations(job: Job) -> str:
    if job.batch.microbatch_size > 1:
        return f"lower batch.microbatch_size (now {job.batch.microbatch_size})"
    return f"lower data.sequence_length (now {job.data.sequence_length})"
