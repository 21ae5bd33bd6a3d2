"""Whether a plan fits in the memory that there is: each device's own, or a machine's
where its workers share it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dougong.accelerators.registry import get_accelerator
from dougong.control.handshake import AgentFacts
from dougong.errors import PlanError
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.planner.needs.refusal import beside_devices, gb, listed, together, too_large
from dougong.planner.needs.remedies import Remedies
from dougong.planner.needs.terms import Term, WorkerMemory
from dougong.planner.needs.worker_memory import needed_memory, shares_machine
from dougong.planner.placement import AgentSpec, make_seats
from dougong.planner.plan_job import plan_job
from dougong.planner.snapshot_room import with_room_for_snapshots


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
    needed = needed_memory(job, inventory, plan)
    check_fit(job, plan, needed, known_memory(job, specs, agents))
    check_hosts(job, plan, needed, machines)
    return plan


def memory_of_machines(agents: Iterable[AgentFacts]) -> dict[str, int]:
    """Bytes by node, where they are known; the least that any agent there may take."""
    found: dict[str, int] = {}
    for agent in agents:
        num_bytes = agent.limits.memory_bytes
        if num_bytes is not None:
            found[agent.node] = min(num_bytes, found.get(agent.node, num_bytes))
    return found


def check_fit(
    job: Job, plan: Plan, needed: Sequence[WorkerMemory], memory: Sequence[KnownMemory]
) -> None:
    """PlanError where workers take more at their peaks than there is: names every term's bytes,
    what there is, and what helps. On a machine that its workers share, what lies beside devices
    counts, too: a checkpoint on its way, and snapshots. `needed`: by rank."""
    by_name = {worker.name: needed[worker.rank] for worker in plan.workers}
    for known in memory:
        found = [by_name[name] for name in known.workers]
        terms = together(found, known.is_shared)
        if sum(terms.values()) > known.num_bytes:
            raise PlanError(_refusal(known, terms, found, Remedies(job, plan)))


def check_hosts(
    job: Job, plan: Plan, needed: Sequence[WorkerMemory], machines: Mapping[str, int]
) -> None:
    """PlanError where what lies beside the devices of a machine (a checkpoint on its way,
    snapshots, masters and moments of `optimizer.device: host`) is more than it has. `needed`: by
    rank; `machines`: bytes of memory by node."""
    is_shared = shares_machine(job)
    by_node: dict[str, list[Worker]] = {}
    for worker in plan.workers:
        if not is_shared[worker.island]:
            by_node.setdefault(worker.node, []).append(worker)
    for node, num_bytes in machines.items():
        there = by_node.get(node, [])
        terms = beside_devices([needed[worker.rank] for worker in there])
        total = sum(terms.values())
        if total > num_bytes:
            raise PlanError(
                f"{node} has {gb(num_bytes)}, and beside their devices its {len(there)} workers "
                f"need {gb(total)} of its memory: {listed(terms)}; put islands on several "
                f"machines; {Remedies(job, plan).advice(terms)}"
            )


def _refusal(
    known: KnownMemory,
    terms: Mapping[Term, int],
    needed: Sequence[WorkerMemory],
    remedies: Remedies,
) -> str:
    island = known.workers[0].partition("/")[0]
    even_so = f"to run even so, set islands.{island}.memory_gb"
    if len(known.workers) == 1 and not known.is_shared:
        place = f"{known.place} has"
        alone = too_large(known.workers[0], needed[0], place, known.num_bytes, remedies)
        return f"{alone}; {even_so}"
    pairs = zip(known.workers, needed, strict=True)
    each = ", ".join(f"{name} {gb(_taken(one, known.is_shared))}" for name, one in pairs)
    return (
        f"the {len(known.workers)} workers on {known.place} need "
        f"{gb(sum(terms.values()))} ({each}), and it has {gb(known.num_bytes)}: {listed(terms)}; "
        f"put islands on several machines (islands.{island}.node), or {remedies.advice(terms)}; "
        f"{even_so}"
    )


def _taken(memory: WorkerMemory, with_host: bool) -> int:
    return memory.peak + (memory.on_host if with_host else 0)
