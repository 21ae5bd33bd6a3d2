"""Whether a plan's state can lie in the memory that there is: each device's own, or a machine's
where its workers share it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dougong.accelerators.registry import get_accelerator
from dougong.control.handshake import AgentFacts
from dougong.errors import PlanError
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.planner.audit_bytes import audit_bytes
from dougong.planner.placement import AgentSpec, make_seats
from dougong.planner.plan_job import BYTES_PER_GB, by_worker, host_bytes, plan_job, state_bytes
from dougong.planner.snapshot_bytes import snapshot_bytes
from dougong.planner.snapshot_room import with_room_for_snapshots

_DEVICE_REMEDY = (
    "add workers, move experts by offload or speed, keep masters and optimizer state in the "
    "machine's memory (optimizer.device: host), or take a smaller model or an optimizer with less "
    "state"
)
_MACHINE_REMEDY = (
    "put islands on several machines (islands.{island}.node), lower islands.{island}.workers if "
    "they have lanes (each of them holds all tensors outside of the experts), or take a smaller "
    "model or an optimizer with less state"
)


@dataclass(frozen=True)
class KnownMemory:
    """`num_bytes` that `workers` have together, at `place`: a machine's (`is_shared`) or a
    device's."""

    place: str
    workers: tuple[str, ...]
    num_bytes: int
    is_shared: bool

    def with_more(self, workers: Sequence[str], num_bytes: int) -> KnownMemory:
        """The same machine or device, as seen by another agent whose workers share it, too."""
        least = min(self.num_bytes, num_bytes)
        return KnownMemory(self.place, (*self.workers, *workers), least, self.is_shared)


def known_memory(
    job: Job, specs: Sequence[AgentSpec], agents: Mapping[str, AgentFacts]
) -> list[KnownMemory]:
    """What agents have said of the memory of their devices; an island whose `memory_gb` is set is
    judged by that alone. `agents`: by name."""
    by_user = {island.name for island in job.islands if island.memory_gb is not None}
    shared: dict[str, KnownMemory] = {}
    together: dict[tuple[str, str], KnownMemory] = {}
    found: list[KnownMemory] = []
    for spec in specs:
        node, num_bytes = agents[spec.name].node, agents[spec.name].memory_bytes
        if num_bytes is None or spec.island in by_user:
            continue
        if get_accelerator(spec.accelerator).shares_machine:
            known = shared.get(node, KnownMemory(node, (), num_bytes, is_shared=True))
            shared[node] = known.with_more(spec.workers, num_bytes)
        elif spec.shares_device:
            key, place = (node, spec.accelerator), f"the {spec.accelerator} device of {node}"
            known = together.get(key, KnownMemory(place, (), num_bytes, is_shared=False))
            together[key] = known.with_more(spec.workers, num_bytes)
        else:
            for name in spec.workers:
                place = f"a device of {node}"
                found.append(KnownMemory(place, (name,), num_bytes, is_shared=False))
    return [*found, *together.values(), *shared.values()]


def plan_that_fits(
    job: Job,
    inventory: Inventory,
    specs: Sequence[AgentSpec],
    agents: Mapping[str, AgentFacts],
) -> Plan:
    """The plan of a job on these agents' devices. Raises PlanError when it cannot be laid out, or
    is more than their memory can hold. Snapshots are left out where `auto` finds no room."""
    plan = plan_job(job, inventory, make_seats(specs, agents))
    machines = memory_of_machines(agents.values())
    plan = with_room_for_snapshots(job, inventory, plan, machines)
    check_fit(job, inventory, plan, known_memory(job, specs, agents))
    check_hosts(job, inventory, plan, machines)
    return plan


def memory_of_machines(agents: Iterable[AgentFacts]) -> dict[str, int]:
    """Bytes by node, where they are known; the least that any agent there may take."""
    found: dict[str, int] = {}
    for agent in agents:
        num_bytes = agent.limits.memory_bytes
        if num_bytes is not None:
            found[agent.node] = min(num_bytes, found.get(agent.node, num_bytes))
    return found


def check_fit(job: Job, inventory: Inventory, plan: Plan, memory: Sequence[KnownMemory]) -> None:
    """PlanError where weights, gradients and optimizer state alone are more than there is: names
    every worker's bytes, what there is, and what helps. What an audited step takes more counts, and
    on a machine that its workers share their snapshots, too."""
    states = by_worker(plan, state_bytes(job, inventory, plan))
    audits = by_worker(plan, [part.memory for part in audit_bytes(job, inventory, plan)])
    snapshots = by_worker(plan, [part.total for part in snapshot_bytes(job, inventory, plan)])
    for known in memory:
        total = sum(states[name] for name in known.workers)
        if total > known.num_bytes:
            raise PlanError(_refusal(known, states, total))
        audited = sum(audits[name] for name in known.workers)
        if total + audited > known.num_bytes:
            raise PlanError(_audits_refusal(known, total, audited))
        total += audited
        kept = sum(snapshots[name] for name in known.workers)
        if known.is_shared and total + kept > known.num_bytes:
            raise PlanError(_snapshots_refusal(known, total, kept))


def check_hosts(job: Job, inventory: Inventory, plan: Plan, machines: Mapping[str, int]) -> None:
    """PlanError where what `optimizer.device: host` keeps beside the devices of a machine is more
    than it has. `machines`: bytes of memory by node."""
    kept = host_bytes(job, inventory, plan)
    by_node: dict[str, list[Worker]] = {}
    for worker in plan.workers:
        if kept[worker.rank]:
            by_node.setdefault(worker.node, []).append(worker)
    for node, num_bytes in machines.items():
        there = by_node.get(node, [])
        total = sum(kept[worker.rank] for worker in there)
        if total > num_bytes:
            raise PlanError(
                f"{node} has {_gb(num_bytes)}, and the master weights and optimizer state of its "
                f"{len(there)} workers, which lie there (optimizer.device: host), take "
                f"{_gb(total)}; put islands on several machines, or begin a run with "
                "optimizer.device: worker"
            )


def _refusal(known: KnownMemory, needed: Mapping[str, int], total: int) -> str:
    island = known.workers[0].partition("/")[0]
    remedy = (_MACHINE_REMEDY if known.is_shared else _DEVICE_REMEDY).format(island=island)
    each = ", ".join(f"{name} {_gb(needed[name])}" for name in known.workers)
    who = f"{known.workers[0]} needs {_gb(total)}"
    if len(known.workers) > 1:
        who = f"the {len(known.workers)} workers on {known.place} need {_gb(total)} ({each})"
    return (
        f"{who} for weights, gradients and optimizer state, activations not counted, and "
        f"{known.place} has {_gb(known.num_bytes)}; {remedy}; to run even so, set "
        f"islands.{island}.memory_gb"
    )


def _audits_refusal(known: KnownMemory, total: int, audited: int) -> str:
    island = known.workers[0].partition("/")[0]
    return (
        f"{known.place} has {_gb(known.num_bytes)}; of {', '.join(known.workers)} weights, "
        f"gradients and optimizer state take {_gb(total)}, and in a step that is computed a second "
        f"time another worker's experts and a second set of gradients {_gb(audited)} more; "
        "set fault.audit: null (no step is), or add workers; to run even so, set "
        f"islands.{island}.memory_gb"
    )


def _snapshots_refusal(known: KnownMemory, total: int, kept: int) -> str:
    island = known.workers[0].partition("/")[0]
    return (
        f"{known.place} has {_gb(known.num_bytes)}, and its {len(known.workers)} workers need "
        f"{_gb(total)} for weights, gradients, optimizer state and audits and {_gb(kept)} for "
        "snapshots of the state, their own and those that they keep for others; set "
        "fault.snapshots.replicas: 0 (a lost worker's part is then read from a checkpoint), or "
        f"fault.snapshots.every: 0 (no snapshots); to run even so, set islands.{island}.memory_gb"
    )


def _gb(num_bytes: int) -> str:
    """Three digits, and whole numbers from a hundred on."""
    amount = num_bytes / BYTES_PER_GB
    return f"{amount:,.0f} GB" if amount >= 100 else f"{amount:.3g} GB"
