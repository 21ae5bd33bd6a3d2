"""From a job to its plan: what its keys `speed`, `offload` and `memory_gb` mean to the planner.
Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dougong.accelerators.registry import get_accelerator
from dougong.errors import PlanError
from dougong.job.optimizers.declaration import ElementwiseRule
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Island, Job
from dougong.parallel.assign import EQUAL, LayerTimes, Room, Speed, lane_shares, offload
from dougong.parallel.bridge.choice import Shore, choose_paths
from dougong.parallel.island_paths import IslandPath
from dougong.parallel.plan import Inventory, Plan, Role, Seat, make_plan, role_in_step
from dougong.planner.needs.holdings import expert_bytes, holdings
from dougong.planner.needs.programs import prove
from dougong.planner.needs.refusal import BYTES_PER_GB, too_large
from dougong.planner.needs.remedies import Remedies
from dougong.planner.needs.worker_memory import needed_memory

HOST_BACKEND = "gloo"
"""The native backend of an accelerator whose tensors lie in host memory."""


def plan_job(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> Plan:
    """The plan of a job on these seats. Raises PlanError when it cannot be laid out, does not fit
    in memory, or has no schedule that is complete and free of deadlock."""
    islands = {island.name: island for island in job.islands}
    seats = [dataclasses.replace(seat, speed=speed_of(islands[seat.island])) for seat in seats]
    kept, is_elementwise = _experts_kept(job, inventory, seats), elementwise_rule(job)
    plan = make_plan(job.batch.lanes, inventory, seats, kept, is_elementwise)
    plan = dataclasses.replace(plan, paths=island_paths(job))
    _check_memory(job, inventory, plan)
    prove(job, plan)
    return plan


def elementwise_rule(job: Job) -> ElementwiseRule:
    """Which tensors may be owned in pieces, as the job's optimizer declares it."""
    return declaration_of(job.optimizer).is_elementwise


def island_paths(job: Job) -> tuple[IslandPath, ...]:
    """The way of bytes between each two islands; see `choose_paths`."""
    return choose_paths([_shore(island) for island in job.islands], job.bridge)


def _shore(island: Island) -> Shore:
    accelerator = get_accelerator(island.accelerator)
    is_host = accelerator.backend == HOST_BACKEND
    has_library = not is_host and not island.shares_device
    return Shore(island.name, island.accelerator, is_host, has_library)


def speed_of(island: Island) -> Speed:
    """An island's speed as the planner reads it: what the job says, else that of its emulation,
    else the same for all."""
    if island.speed:
        return Speed(island.speed.attention, island.speed.experts)
    if island.emulate:
        attention = 1000 / island.emulate.attention_ms
        experts = 1000 / island.emulate.expert_ms_per_1k_tokens
        return Speed(attention, experts)
    return EQUAL


def computes(job: Job, role: Role) -> Role:
    """The role whose kernels a worker runs, before there is a plan: one of role attention that may
    keep experts runs both roles'."""
    may_keep_experts = job.offload not in ("none", 0)
    return role_in_step(role != "experts", role != "attention" or may_keep_experts)


def _experts_kept(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> list[int]:
    """Experts of every site that workers of role attention keep. Without two kinds of workers there
    is no choice."""
    num_sites = len(inventory.sites)
    roles = {seat.role for seat in seats}
    if not {"attention", "experts"} <= roles or job.offload == "none":
        return [0] * num_sites
    if job.offload != "auto":
        return [job.offload] * num_sites
    return list(_auto_offload(job, inventory, seats))


def _auto_offload(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> tuple[int, ...]:
    """As many as fill the wait for the experts workers, within the memory of both."""
    num_attention = sum(seat.role == "attention" for seat in seats)
    workers = (num_attention, len(seats) - num_attention)
    times = layer_times(job, inventory, seats)
    room = _room(job, inventory, seats)
    return offload(len(inventory.sites), inventory.num_experts, workers, times, room)


def layer_times(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> LayerTimes:
    """Times of a micro-batch in a layer by the seats' speeds, the load of experts taken as even."""
    attention = [seat.speed for seat in seats if seat.role == "attention"]
    others = [seat.speed for seat in seats if seat.role != "attention"]
    sequences = job.batch.lanes * job.batch.microbatch_size
    rows = sequences * job.data.sequence_length * inventory.experts_per_token
    thousand_rows = rows / 1000
    return LayerTimes(
        attention=_attention_time(job.batch.lanes, attention),
        experts=thousand_rows / sum(speed.experts for speed in others),
        experts_kept=thousand_rows / sum(speed.experts for speed in attention),
    )


def _attention_time(num_lanes: int, speeds: Sequence[Speed]) -> float:
    """Of the worker that takes longest for its lanes."""
    shares = lane_shares(num_lanes, [speed.attention for speed in speeds])
    pairs = zip(shares, speeds, strict=True)
    return max(len(lanes) / speed.attention for lanes, speed in pairs)


def _room(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> Room:
    """How many experts fit beside attention, and how many do not fit on the experts workers."""
    # A plan without offload: what is used before any expert is moved.
    plan = make_plan(job.batch.lanes, inventory, seats, is_elementwise=elementwise_rule(job))
    limits = _memory_limits(job)
    most, least = 0, 0
    for worker, held in zip(plan.workers, holdings(job, inventory, plan), strict=True):
        limit, used = limits[worker.island], held.on_device
        on_attention = worker.role == "attention"
        if limit is None:
            most += len(inventory.sites) * inventory.num_experts if on_attention else 0
            continue
        # How many more fit; below zero: how many are too many, a part of one counted whole.
        fitting = int(limit - used) // expert_bytes(job, inventory, worker.island)
        if on_attention:
            most += max(0, fitting)
        else:
            least += max(0, -fitting)
    return Room(most, least)


def _memory_limits(job: Job) -> dict[str, float | None]:
    """Bytes of one device for one worker, by island; None: not checked."""
    limits: dict[str, float | None] = dict.fromkeys(island.name for island in job.islands)
    for island in job.islands:
        if island.memory_gb is not None:
            sharers = island.workers if island.shares_device else 1
            limits[island.name] = island.memory_gb * BYTES_PER_GB / sharers
    return limits


def _check_memory(job: Job, inventory: Inventory, plan: Plan) -> None:
    """PlanError when a worker takes more than its island's `memory_gb` at its peak."""
    limits = _memory_limits(job)
    if not any(limit is not None for limit in limits.values()):
        return
    for worker, memory in zip(plan.workers, needed_memory(job, inventory, plan), strict=True):
        limit = limits[worker.island]
        if limit is not None and memory.peak > limit:
            key = f"islands.{worker.island}.memory_gb"
            remedies, room = Remedies(job, plan), f"{key} leaves it"
            raise PlanError(too_large(worker.name, memory, room, limit, remedies))
