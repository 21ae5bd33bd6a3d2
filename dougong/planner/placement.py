"""Which agent serves which part of an island, on which node; the seats they make; whether the nodes
agree. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dougong.control.handshake import AgentFacts
from dougong.errors import LaunchError
from dougong.job.schema import Island
from dougong.parallel.plan import Role, Seat


@dataclass(frozen=True)
class Node:
    """A machine that may run agents. `devices`: how many of each accelerator it has; cpu is not
    counted."""

    id: str
    name: str
    address: str
    devices: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    given_name: str = ""

    def matches(self, wish: str) -> bool:
        """Whether `island.node` means this node: its address, name, id, or a label `key=value`."""
        key, equals, value = wish.partition("=")
        if equals:
            return self.labels.get(key) == value
        return wish in (self.address, self.name, self.given_name) or (
            len(wish) >= 8 and self.id.startswith(wish)
        )


@dataclass(frozen=True)
class AgentSpec:
    """One agent: `num_workers` workers of an island from index `first_index`, on one node.

    `node`: the node's id, or None when the placement may choose. `first_device`: number of its
    first device among those that the agent's process can see.
    """

    name: str
    island: str
    role: Role
    accelerator: str
    threads: int
    first_index: int
    num_workers: int
    first_device: int = 0
    node: str | None = None

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(f"{self.island}/{self.first_index + i}" for i in range(self.num_workers))


def lay_out(
    islands: Sequence[Island], nodes: Sequence[Node], shared: bool = True
) -> tuple[AgentSpec, ...]:
    """One agent per island and node. An island of devices takes the nodes with most free devices
    first.

    `shared`: agents of one node see all its devices, so that each must begin after the last one's;
    otherwise an agent sees only its own. Raises LaunchError with the numbers of every node when
    there are fewer devices than workers.
    """
    free = {node.id: dict(node.devices) for node in nodes}
    specs: list[AgentSpec] = []
    for island in islands:
        allowed = _allowed(island, nodes)
        if island.accelerator == "cpu":
            specs.append(_spec(island, 0, island.workers, allowed[0].id if island.node else None))
        else:
            specs += _spread(island, allowed, free)
    return (
        tuple(specs)
        if shared
        else tuple(dataclasses.replace(spec, first_device=0) for spec in specs)
    )


def _allowed(island: Island, nodes: Sequence[Node]) -> list[Node]:
    allowed = [node for node in nodes if island.node is None or node.matches(island.node)]
    if not allowed:
        have = ", ".join(f"{n.name} ({n.address})" for n in nodes) or "none"
        wish = f"is pinned to node {island.node!r}" if island.node else "needs a node"
        raise LaunchError(
            f"island {island.name} {wish}; the nodes are: {have}; mend islands.{island.name}.node"
        )
    return allowed


def _spread(
    island: Island, nodes: Sequence[Node], free: dict[str, dict[str, int]]
) -> list[AgentSpec]:
    kind, left, first = island.accelerator, island.workers, 0
    specs = []
    for node in sorted(nodes, key=lambda n: -free[n.id].get(kind, 0)):
        count = min(left, free[node.id].get(kind, 0))
        if count:
            used = node.devices[kind] - free[node.id][kind]
            specs.append(_spec(island, first, count, node.id, used))
            free[node.id][kind] -= count
            left, first = left - count, first + count
    if left:
        counts = ", ".join(f"{n.name} has {free_of(n, kind)}" for n in nodes)
        raise LaunchError(
            f"island {island.name} asks for {island.workers} {kind} workers, one device each, but only {first} devices "
            f"are free ({counts}); lower islands.{island.name}.workers or add nodes"
        )
    return specs


def free_of(node: Node, kind: str) -> str:
    """A node's devices in words."""
    return f"{node.devices.get(kind, 0)} {kind}"


def _spec(
    island: Island, first: int, count: int, node: str | None, first_device: int = 0
) -> AgentSpec:
    name = island.name if count == island.workers else f"{island.name}-{first}"
    threads = island.threads
    return AgentSpec(
        name,
        island.name,
        island.role,
        island.accelerator,
        threads,
        first,
        count,
        first_device,
        node,
    )


def make_seats(specs: Sequence[AgentSpec], agents: Mapping[str, AgentFacts]) -> tuple[Seat, ...]:
    """The places for workers in rank order: islands as in the job file, then by index. `agents`:
    what each said of itself, by name."""
    seats = []
    for spec in specs:
        node = agents[spec.name].node
        for i, worker in enumerate(spec.workers):
            seats.append(Seat(worker, spec.island, spec.role, node, _device(spec, i)))
    return tuple(seats)


def seats_of_job(islands: Sequence[Island]) -> tuple[Seat, ...]:
    """The seats that a job asks for, on no node in particular: for a look at the plan."""
    return tuple(
        Seat(worker, spec.island, spec.role, island.node or "-", _device(spec, i))
        for island in islands
        for spec in [_spec(island, 0, island.workers, None)]
        for i, worker in enumerate(spec.workers)
    )


def devices_of(spec: AgentSpec) -> dict[str, str]:
    """Worker -> its device, such as `cuda:3`, for all workers of an agent."""
    return {worker: _device(spec, i) for i, worker in enumerate(spec.workers)}


def _device(spec: AgentSpec, index: int) -> str:
    number = spec.first_index if spec.accelerator == "cpu" else spec.first_device
    return f"{spec.accelerator}:{number + index}"


def check_agents(agents: Mapping[str, AgentFacts], run_dir: str) -> None:
    """LaunchError when agents do not run the same software or do not see the run directory."""
    blind = sorted({agent.node for agent in agents.values() if not agent.sees_run_dir})
    if blind:
        raise LaunchError(
            f"the run directory {run_dir} is not to be seen on {', '.join(blind)}; every node must "
            "reach it under the same path: pass --run-dir on storage that they share"
        )
    packages: dict[str, set[str | None]] = {}
    for agent in agents.values():
        for name in agent.versions:
            packages.setdefault(name, set())
    for name, versions in packages.items():
        versions.update(agent.versions.get(name) for agent in agents.values())
    skewed = [name for name, versions in packages.items() if len(versions) > 1]
    if skewed:
        raise LaunchError(
            f"the nodes differ in {', '.join(skewed)}; a run needs the same everywhere:\n"
            + version_table(agents, list(packages), skewed)
            + "\ninstall the same versions on all nodes, then run again"
        )


def version_table(
    agents: Mapping[str, AgentFacts], packages: Sequence[str], skewed: Sequence[str]
) -> str:
    """Nodes by packages in plain text; the columns that differ are marked with `*`."""
    rows = [["node", *(f"{name}*" if name in skewed else name for name in packages)]]
    for agent, facts in agents.items():
        versions = [facts.versions.get(name, "-") for name in packages]
        rows.append([f"{facts.node} ({agent})", *versions])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
