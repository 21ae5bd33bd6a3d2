"""Whether a plan keeps snapshots where the job leaves that to it: as memory allows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.planner.needs.terms import Term, Terms, added
from dougong.planner.needs.worker_memory import needed_memory, shares_machine

_LEFT_OVER = 10


@dataclass(frozen=True)
class SnapshotDemand:
    """What a node has, what its workers take of it at their peaks, a checkpoint on its way
    included, and what their snapshots would take."""

    node: str
    num_bytes: int
    peaks: int
    snapshots: int

    @property
    def has_room(self) -> bool:
        """A tenth of the node's memory is left for what is not counted: processes, uneven routing,
        whatever else runs there."""
        return self.snapshots + self.peaks <= self.num_bytes - self.num_bytes // _LEFT_OVER


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
    needed = needed_memory(job, inventory, plan)
    is_shared = shares_machine(job)
    by_node: dict[str, list[Worker]] = {}
    for worker in plan.workers:
        by_node.setdefault(worker.node, []).append(worker)
    for node, num_bytes in machines.items():
        there = by_node.get(node, [])
        parts: list[Terms] = [needed[worker.rank].host for worker in there]
        parts += [needed[w.rank].at_peak for w in there if is_shared[w.island]]
        terms = added(parts)
        snapshots = terms.pop(Term.SNAPSHOTS, 0)
        yield SnapshotDemand(node, num_bytes, sum(terms.values()), snapshots)
