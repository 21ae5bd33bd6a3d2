"""What a person is told once of the machines that a run has got: their clocks, limits, CPUs and
free memory. Nothing is refused for them, and nothing decided by them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from dougong.accelerators.registry import get_accelerator
from dougong.control.handshake import AgentFacts, MachineLimits
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan
from dougong.planner.memory import memory_of_machines
from dougong.planner.needs.refusal import beside_devices, gb, listed, together
from dougong.planner.needs.remedies import Remedies
from dougong.planner.needs.terms import Terms, added
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.nodes import UNNAMED
from dougong.planner.placement import AgentSpec
from dougong.planner.snapshot_room import SnapshotDemand, short_of_room
from dougong.remarks import Remarks
from dougong.ui.formatting import duration, plural, size

_FILES_OF_ANY = 100
_FILES_OF_A_PEER = 6
"""A worker has a few connections to each other one, an agent a few descriptors of each worker."""
_THREADS_OF_ANY = 32
"""Of a worker beside those that compute: connections, progress, what libraries begin."""
_SHARED_MEMORY_BYTES = 1 << 30
_LOCKED_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class JoinedAgent:
    """An agent with what it has said. `clock_ahead_s`: of the controller's machine."""

    spec: AgentSpec
    facts: AgentFacts
    clock_ahead_s: float = 0.0

    @property
    def has_devices(self) -> bool:
        return not get_accelerator(self.spec.accelerator).shares_machine


def remarks_on_machines(agents: Sequence[JoinedAgent], nodes: Collection[str]) -> Remarks:
    """On clocks, limits, and CPUs against workers, of these nodes. `agents`: all of the run's."""
    num_workers = sum(agent.spec.num_workers for agent in agents)
    of_node = _by_node(agents)
    notes: list[str] = []
    warnings: list[str] = []
    for node in nodes:
        there = of_node[node]
        limits = there[0].facts.limits
        notes += _on_clock(node, there)
        notes += _on_cpus(node, there)
        notes += locked_memory_words(node, there, len(of_node), limits)
        warnings += open_files_words(node, num_workers, limits)
        warnings += processes_words(node, there, limits)
        warnings += shared_memory_words(node, there, limits)
    return Remarks(tuple(notes), tuple(warnings))


def _by_node(agents: Sequence[JoinedAgent]) -> dict[str, list[JoinedAgent]]:
    found: dict[str, list[JoinedAgent]] = {}
    for agent in agents:
        found.setdefault(agent.facts.node, []).append(agent)
    return found


def _on_clock(node: str, there: Sequence[JoinedAgent]) -> Iterator[str]:
    ahead_s = there[0].clock_ahead_s
    if abs(ahead_s) > DEADLINES.clocks_differ_s:
        side = "ahead of" if ahead_s > 0 else "behind"
        yield (
            f"the clock of {node} is {duration(abs(ahead_s))} {side} that of this machine (dougong "
            "run); no decision depends on it, but times in that node's logs are other ones"
        )


def _on_cpus(node: str, there: Sequence[JoinedAgent]) -> Iterator[str]:
    known = [agent.facts.limits.cpus for agent in there if agent.facts.limits.cpus is not None]
    num_workers = sum(agent.spec.num_workers for agent in there)
    num_threads = sum(agent.spec.num_workers * agent.spec.threads for agent in there)
    if not known or num_threads <= min(known):
        return
    each = {agent.spec.threads for agent in there}
    threads = f"{plural(num_threads, 'thread')} in all"
    if len(each) == 1:
        threads = f"{plural(each.pop(), 'thread')} each"
    cpus = plural(min(known), "CPU")
    yield f"{plural(num_workers, 'worker')} with {threads} on {cpus} of {node}: they share them"


def open_files_words(node: str, num_workers: int, limits: MachineLimits) -> Iterator[str]:
    """That a process of a node may have fewer files open than a run of so many workers needs."""
    needed = _FILES_OF_ANY + _FILES_OF_A_PEER * num_workers
    if limits.open_files is not None and limits.open_files < needed:
        yield (
            f"a process on {node} may have {limits.open_files} files and connections open, and one "
            f"of a run with {plural(num_workers, 'worker')} needs about {needed}: `ulimit -n "
            f"{2 * needed}` where Ray is started there"
        )


def processes_words(
    node: str, there: Sequence[JoinedAgent], limits: MachineLimits
) -> Iterator[str]:
    """That a user may have fewer processes and threads on a node than these agents need."""
    num_workers = sum(agent.spec.num_workers for agent in there)
    threads = sum(agent.spec.num_workers * agent.spec.threads for agent in there)
    needed = threads + _THREADS_OF_ANY * (num_workers + 1)
    if limits.processes is not None and limits.processes < needed:
        yield (
            f"this user may have {limits.processes} processes and threads on {node}, and "
            f"{plural(num_workers, 'worker')} there need about {needed}: `ulimit -u {2 * needed}` "
            "where Ray is started there"
        )


def shared_memory_words(
    node: str, there: Sequence[JoinedAgent], limits: MachineLimits
) -> Iterator[str]:
    """Collective libraries of devices exchange within a machine through it (NCCL's guide, on
    containers)."""
    num_devices = sum(agent.spec.num_workers for agent in there if agent.has_devices)
    found = limits.shared_memory_bytes
    if num_devices > 1 and found is not None and found < _SHARED_MEMORY_BYTES:
        yield (
            f"/dev/shm of {node} has {size(found)}, and {num_devices} devices exchange through it: "
            f"give it {size(_SHARED_MEMORY_BYTES)} (of a container: --shm-size=1g)"
        )


def locked_memory_words(
    node: str, there: Sequence[JoinedAgent], num_nodes: int, limits: MachineLimits
) -> Iterator[str]:
    """RDMA between machines pins what it sends (NCCL's guide, on containers)."""
    found = limits.locked_memory_bytes
    uses_devices = any(agent.has_devices for agent in there)
    if uses_devices and num_nodes > 1 and found is not None and found < _LOCKED_MEMORY_BYTES:
        yield (
            f"a process on {node} may pin {size(found)} of memory; InfiniBand and its like need "
            "more: `ulimit -l unlimited` where Ray is started there (of a container: --ulimit "
            "memlock=-1)"
        )


def remarks_on_memory(
    job: Job, inventory: Inventory, plan: Plan, agents: Sequence[JoinedAgent]
) -> Remarks:
    """Warnings of nodes that have less memory free now than their workers take there at their
    peaks, and copies of the state; and a note where snapshots are left out."""
    names = [worker.name for worker in plan.workers]
    needed = dict(zip(names, needed_memory(job, inventory, plan), strict=True))
    warnings: list[str] = []
    for node, there in _by_node(agents).items():
        parts: list[Terms] = []
        for agent in there:
            found = [needed[name] for name in agent.spec.workers]
            lies_beside = agent.has_devices
            parts.append(beside_devices(found) if lies_beside else together(found, with_host=True))
        warnings += _on_free_memory(node, there, added(parts), Remedies(job, plan))
    machines = memory_of_machines(agent.facts for agent in agents)
    short = short_of_room(job, inventory, plan, machines)
    return Remarks(tuple(left_out_snapshots(short)), tuple(warnings))


def left_out_snapshots(short: SnapshotDemand | None) -> Iterator[str]:
    """Why no snapshots are kept, where some machine is short of room for them."""
    if short is not None:
        place = "a machine like this one" if short.node == UNNAMED else short.node
        yield (
            "no snapshots of the state are kept (fault.snapshots.replicas: auto): on "
            f"{place} they would take {size(short.snapshots)} beside the {size(short.peaks)} "
            f"that its workers take at their peaks, and less than a tenth of its "
            f"{size(short.num_bytes)} would be left; a recovery then goes on from a checkpoint; to "
            "keep them even so, set fault.snapshots.replicas: 1"
        )


def _on_free_memory(
    node: str, there: Sequence[JoinedAgent], terms: Terms, remedies: Remedies
) -> Iterator[str]:
    free = [agent.facts.limits.free_memory_bytes for agent in there]
    known = [num_bytes for num_bytes in free if num_bytes is not None]
    total = sum(terms.values())
    if not known or total <= min(known):
        return
    yield (
        f"{node} has {gb(min(known))} of memory free now, and its workers need {gb(total)} at "
        f"their peaks: {listed(terms)}; end what else runs there, or put islands on other nodes; "
        f"{remedies.advice(terms)}"
    )
