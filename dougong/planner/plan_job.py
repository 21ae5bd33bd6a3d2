"""From a job to its plan: what its keys `speed`, `offload` and `memory_gb` mean to the planner.
Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dougong.accelerators.registry import get_accelerator
from dougong.accelerators.staging import SLOT_BYTES
from dougong.errors import PlanError
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Island, Job
from dougong.parallel.assign import EQUAL, LayerTimes, Room, Speed, lane_shares, offload
from dougong.parallel.bridge.choice import Shore, choose_paths
from dougong.parallel.island_paths import IslandPath
from dougong.parallel.plan import Inventory, Plan, Role, Seat, make_plan, role_in_step
from dougong.planner.programs import prove

GRADIENT_BYTES = 4
"""Of a parameter's gradient, which is float32 in any precision."""
MASTER_BYTES = 4
"""Of a parameter's float32 master, where its compute copy is another tensor."""
BYTES_PER_GB = 1e9
NUM_LINKS = 2
"""Of a worker whose masters lie on the host: for its gradients, and for its new weights."""
LINK_BYTES = 2 * SLOT_BYTES
"""Pinned memory of one of them."""
HOST_BACKEND = "gloo"
"""The native backend of an accelerator whose tensors lie in host memory."""


def plan_job(job: Job, inventory: Inventory, seats: Sequence[Seat]) -> Plan:
    """The plan of a job on these seats. Raises PlanError when it cannot be laid out, does not fit
    in memory, or has no schedule that is complete and free of deadlock."""
    islands = {island.name: island for island in job.islands}
    seats = [dataclasses.replace(seat, speed=speed_of(islands[seat.island])) for seat in seats]
    plan = make_plan(job.batch.lanes, inventory, seats, _experts_kept(job, inventory, seats))
    plan = dataclasses.replace(plan, paths=island_paths(job))
    _check_memory(job, inventory, plan)
    prove(job, plan)
    return plan


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


def expert_bytes(job: Job, inventory: Inventory, island: str) -> int:
    """Memory of one expert of one layer on its owner in this island: weights, gradient and
    optimizer state, but for what lies on the host of a device."""
    return inventory.expert_parameters * (_computing_bytes(job) + _owning_bytes(job, island))


def state_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[int]:
    """Memory of every worker's device, by rank, for weights, gradients and optimizer state;
    activations come on top. What `optimizer.device: host` keeps beside devices is `host_bytes`."""
    # Every attention worker computes with all tensors outside of the experts.
    dense = sum(tensor.num_parameters for tensor in inventory.tensors)
    totals = []
    for worker, owned in zip(plan.workers, owned_parameters(inventory, plan), strict=True):
        copies = worker.num_experts * inventory.expert_parameters + (dense if worker.lanes else 0)
        owning = _owning_bytes(job, worker.island)
        totals.append(copies * _computing_bytes(job) + owned * owning)
    return totals


def host_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[int]:
    """Memory of the machine, beside its devices, that every worker's masters and optimizer state
    take, and what travels there, by rank; 0 where they lie on the device, or the two are one."""
    each = MASTER_BYTES + declaration_of(job.optimizer).bytes_per_parameter(job.optimizer)
    found = []
    for worker, owned in zip(plan.workers, owned_parameters(inventory, plan), strict=True):
        on_host = _owns_on_host(job, worker.island)
        found.append(owned * each + NUM_LINKS * LINK_BYTES if on_host else 0)
    return found


def checkpoint_bytes(job: Job, inventory: Inventory) -> int:
    """What a checkpoint takes on storage: masters, which are the model's own file, and optimizer
    state, whatever the precision."""
    each = MASTER_BYTES + declaration_of(job.optimizer).bytes_per_parameter(job.optimizer)
    return inventory.num_parameters * each


def owned_parameters(inventory: Inventory, plan: Plan) -> list[int]:
    """How many parameters every worker updates and saves, by rank."""
    totals = [worker.num_experts * inventory.expert_parameters for worker in plan.workers]
    sizes = {tensor.name: tensor.num_parameters for tensor in inventory.tensors}
    for name, rank in plan.owners.items():
        totals[rank] += sizes[name]
    return totals


def by_worker(plan: Plan, amounts: Sequence[int]) -> dict[str, int]:
    """By a worker's name, what is given by rank."""
    return {worker.name: amounts[worker.rank] for worker in plan.workers}


def _computing_bytes(job: Job) -> int:
    """Bytes that a parameter takes where it is computed with: its copy and its gradient."""
    return copy_bytes(job) + GRADIENT_BYTES


def copy_bytes(job: Job) -> int:
    """Bytes of a parameter as it is computed with."""
    return 4 if job.precision == "float32" else 2


def _owns_on_host(job: Job, island: str) -> bool:
    """Whether the island's workers have devices, and keep masters and optimizer state beside
    them."""
    kind = next(i.accelerator for i in job.islands if i.name == island)
    return job.optimizer.is_on_host and not get_accelerator(kind).shares_machine


def _owning_bytes(job: Job, island: str) -> int:
    """Bytes that it takes beside that on its owner. In float32 the copy itself is the master."""
    if _owns_on_host(job, island):
        return 0
    master = 0 if job.precision == "float32" else MASTER_BYTES
    return declaration_of(job.optimizer).bytes_per_parameter(job.optimizer) + master


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
    plan = make_plan(job.batch.lanes, inventory, seats)
    limits = _memory_limits(job)
    most, least = 0, 0
    for worker, used in zip(plan.workers, state_bytes(job, inventory, plan), strict=True):
        limit = limits[worker.island]
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
    """PlanError when a worker's state is larger than its island's memory."""
    limits = _memory_limits(job)
    for worker, used in zip(plan.workers, state_bytes(job, inventory, plan), strict=True):
        limit = limits[worker.island]
        if limit is None or used <= limit:
            continue
        one = expert_bytes(job, inventory, worker.island) / BYTES_PER_GB
        needed = used / BYTES_PER_GB
        raise PlanError(
            f"{worker.name} needs {needed:.3g} GB for weights, gradients and optimizer state "
            f"({worker.num_experts} experts of {one:.3g} GB), and "
            f"islands.{worker.island}.memory_gb leaves it {limit / BYTES_PER_GB:g}; add workers, "
            "or move experts by offload or speed"
        )
