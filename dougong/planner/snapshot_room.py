"""Whether a plan keeps snapshots where the job leaves that to it: as memory allows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dougong.accelerators.registry import get_accelerator
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.planner.needs.holdings import host_bytes, state_bytes
from dougong.planner.needs.snapshot_bytes import snapshot_bytes


@dataclass(frozen=True)
class SnapshotDemand:
    """What a node has, what state its workers have there, and what their snapshots would take."""

    node: str
    num_bytes: int
    state: int
    snapshots: int

    @property
    def has_room(self) -> bool:
        """Activations, a checkpoint that is being written and whatever else runs there have the
        other half of what state leaves."""
        return 2 * self.snapshots <= self.num_bytes - self.state


def with_room_for_snapshots(
    job: Job, inventory: Inventory, plan: Plan, machines: Mapping[str, int]
) -> Plan:
    """The plan without snapshots, where the job says `auto` and some machine has no room for them.

    `machines`: bytes of memory by node. A node of which nothing is known has room.
    """
    if short_of_room(job, inventory, plan, machines) is None:
        return plan
    return replace(plan, has_snapshots=False)


def short_of_room(
    job: Job, inventory: Inventory, plan: Plan, machines: Mapping[str, int]
) -> SnapshotDemand | None:
    """A machine that has no room for what `auto` would keep there, be it that the plan keeps it or
    not; None where all have."""
    if job.fault.snapshots.replicas != "auto":
        return None
    for demand in _demands(job, inventory, replace(plan, has_snapshots=True), machines):
        if demand.snapshots and not demand.has_room:
            return demand
    return None


def _demands(
    job: Job, inventory: Inventory, plan: Plan, machines: Mapping[str, int]
) -> Iterator[SnapshotDemand]:
    states, kept = state_bytes(job, inventory, plan), snapshot_bytes(job, inventory, plan)
    on_host = host_bytes(job, inventory, plan)
    kinds = {island.name: get_accelerator(island.accelerator) for island in job.islands}
    by_node: dict[str, list[Worker]] = {}
    for worker in plan.workers:
        by_node.setdefault(worker.node, []).append(worker)
    for node, num_bytes in machines.items():
        there = by_node.get(node, [])
        on_machine = [worker for worker in there if kinds[worker.island].shares_machine]
        state = sum(states[worker.rank] for worker in on_machine)
        state += sum(on_host[worker.rank] for worker in there)
        snapshots = sum(kept[worker.rank].total for worker in there)
        yield SnapshotDemand(node, num_bytes, state, snapshots)
