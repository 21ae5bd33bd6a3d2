"""From a job to its plan: what its keys `speed`, `offload` and `memory_gb` mean to the planner.
Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dougong.errors import PlanError
from dougong.job.schema import Island, Job
from dougong.parallel.assign import EQUAL, LayerTimes, Room, Speed, lane_shares, offload
from dougong.parallel.plan import Inventory, Plan, Seat, make_plan
from dougong.planner.programs import prove

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes that a parameter takes in float32 beside its compute copy, which in float32 is the master
itself."""
GB = 1e9


def plan_job(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> Plan:
    """The plan of a job on these seats. Raises PlanError when it cannot be laid out, does not fit
    in memory, or has no schedule that is complete and free of deadlock."""
    islands = {island.name: island for island in job.islands}
    seats = [dataclasses.replace(seat, speed=speed_of(islands[seat.island])) for seat in seats]
    plan = make_plan(job.batch.lanes, inventory, seats, _kept(job, inventory, seats))
    _fit(job, inventory, plan)
    prove(job, plan)
    return plan


def speed_of(island: Island) -> Speed:
    """As the planner reads it; without a word of the job, all are equal. An emulated island has its
    emulation's."""
    if island.speed:
        return Speed(island.speed.attention, island.speed.experts)
    if island.emulate:
        return Speed(
            1000 / island.emulate.attention_ms, 1000 / island.emulate.expert_ms_per_1k_tokens
        )
    return EQUAL


def computes(job: Job, role: str) -> str:
    """The role whose kernels a worker runs: one of role attention that keeps experts runs both
    roles'."""
    return "both" if role == "attention" and job.offload not in ("none", 0) else role


def expert_bytes(job: Job, inventory: Inventory) -> int:
    """Memory of one expert of one layer on its owner: weights, gradient and optimizer state."""
    return inventory.expert_parameters * (
        _copy(job) + GRADIENT + MOMENTS + MASTER * (job.precision != "float32")
    )


def state_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[int]:
    """Memory of every worker for weights, gradients and optimizer state; activations come on
    top."""
    sizes = {t.name: t.num_parameters for t in inventory.tensors}
    everywhere = sum(sizes.values()) * (
        _copy(job) + GRADIENT
    )  # every attention worker computes with all of them
    found = [
        everywhere * bool(w.lanes) + w.num_experts * expert_bytes(job, inventory)
        for w in plan.workers
    ]
    for name, rank in plan.owners.items():
        found[rank] += sizes[name] * (MOMENTS + MASTER * (job.precision != "float32"))
    return found


def _copy(job: Job) -> int:
    return 4 if job.precision == "float32" else 2


def _kept(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> list[int]:
    """Experts of every site that workers of role attention keep. Without two kinds of workers there
    is no choice."""
    num_sites, roles = len(inventory.sites), {seat.role for seat in seats}
    if not {"attention", "experts"} <= roles or job.offload == "none":
        return [0] * num_sites
    if job.offload != "auto":
        return [job.offload] * num_sites
    workers = (sum(s.role == "attention" for s in seats), sum(s.role != "attention" for s in seats))
    times = layer_times(job, inventory, seats)
    return list(
        offload(num_sites, inventory.num_experts, workers, times, _room(job, inventory, seats))
    )


def layer_times(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> LayerTimes:
    """Times of a micro-batch in a layer by the seats' speeds, the load of experts taken as even."""
    attention = [s.speed for s in seats if s.role == "attention"]
    lanes = lane_shares(job.batch.lanes, [speed.attention for speed in attention])
    sequences = job.batch.lanes * job.batch.microbatch_size
    thousand_rows = sequences * job.data.sequence_length * inventory.experts_per_token / 1000
    return LayerTimes(
        max(len(own) / speed.attention for own, speed in zip(lanes, attention, strict=True)),
        thousand_rows / sum(s.speed.experts for s in seats if s.role != "attention"),
        thousand_rows / sum(speed.experts for speed in attention),
    )


def _room(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> Room:
    """How many experts fit beside attention, and how many do not fit on the experts workers."""
    memory = {island.name: island.memory_gb for island in job.islands}
    plan, one = make_plan(job.batch.lanes, inventory, seats), expert_bytes(job, inventory)
    used = state_bytes(job, inventory, plan)
    most, least = 0, 0
    for worker, state in zip(plan.workers, used, strict=True):
        limit = memory[worker.island]
        if worker.role == "attention":
            most += (
                len(inventory.sites) * inventory.num_experts
                if limit is None
                else max(0, int(limit * GB - state) // one)
            )
        elif limit is not None:
            least += max(0, -(int(limit * GB - state) // one))
    return Room(most, least)


def _fit(job: Job, inventory: Inventory, plan: Plan) -> None:
    """PlanError when a worker's state is larger than its island's memory."""
    memory = {island.name: island.memory_gb for island in job.islands}
    for worker, state in zip(plan.workers, state_bytes(job, inventory, plan), strict=True):
        limit = memory[worker.island]
        if limit is not None and state > limit * GB:
            raise PlanError(
                f"{worker.name} needs {state / GB:.3g} GB for weights, gradients and optimizer state "
                f"({worker.num_experts} experts of {expert_bytes(job, inventory) / GB:.3g} GB), and "
                f"islands.{worker.island}.memory_gb is {limit:g}; add workers, or move experts by offload or speed"
            )
