"""Which agent serves which part of an island, on which node, and the seats they make. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dougong.accelerators.registry import get_accelerator
from dougong.control.handshake import AgentFacts
from dougong.errors import LaunchError
from dougong.job.schema import Island
from dougong.parallel.plan import Role, Seat

_LEAST_ID_LENGTH = 8


@dataclass(frozen=True)
class Node:
    """A machine that may run agents. `devices`: how many of each accelerator it has; those whose
    workers share the machine are not counted."""

    id: str
    name: str
    address: str
    devices: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    given_name: str = ""

    def matches(self, wish: str) -> bool:
        """Whether `island.node` means this node: its address, name, id (or how that begins), or a
        label `key=value`."""
        key, equals, value = wish.partition("=")
        if equals:
            return self.labels.get(key) == value
        if wish in (self.address, self.name, self.given_name):
            return True
        return len(wish) >= _LEAST_ID_LENGTH and self.id.startswith(wish)

    def count(self, kind: str) -> int:
        """How many devices of a kind it has."""
        return self.devices.get(kind, 0)


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
        """Names of its workers, by index."""
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
        specs += _agents_of(island, _allowed(island, nodes), free)
    if not shared:
        return tuple(dataclasses.replace(spec, first_device=0) for spec in specs)
    return tuple(specs)


def _agents_of(
    island: Island, nodes: Sequence[Node], free: dict[str, dict[str, int]]
) -> list[AgentSpec]:
    if not get_accelerator(island.accelerator).shares_machine:
        return _spread(island, nodes, free)
    # Any number of workers fits on one node; which one may be left to the backend.
    node = nodes[0].id if island.node else None
    return [_spec(island, 0, island.workers, node)]


def _allowed(island: Island, nodes: Sequence[Node]) -> list[Node]:
    """The nodes where an island may run."""
    if island.node is None:
        allowed, problem = list(nodes), "needs a node"
    else:
        allowed = [node for node in nodes if node.matches(island.node)]
        problem = f"is pinned to node {island.node!r}"
    if allowed:
        return allowed
    have = ", ".join(f"{node.name} ({node.address})" for node in nodes) or "none"
    raise LaunchError(
        f"island {island.name} {problem}; the nodes are: {have}; mend islands.{island.name}.node"
    )


def _spread(
    island: Island, nodes: Sequence[Node], free: dict[str, dict[str, int]]
) -> list[AgentSpec]:
    """Agents for all workers of an island of devices. `free`: devices left, by node and kind; what
    is taken is taken off."""
    kind, first = island.accelerator, 0
    specs = []
    for node in sorted(nodes, key=lambda node: -free[node.id].get(kind, 0)):
        left = free[node.id].get(kind, 0)
        count = min(island.workers - first, left)
        if count == 0:
            continue
        # Devices are given out in order, so that those in use are the first ones.
        first_device = node.count(kind) - left
        specs.append(_spec(island, first, count, node.id, first_device))
        free[node.id][kind] = left - count
        first += count
    if first < island.workers:
        raise _too_few_devices(island, nodes, first)
    return specs


def _too_few_devices(island: Island, nodes: Sequence[Node], found: int) -> LaunchError:
    kind = island.accelerator
    counts = ", ".join(f"{node.name} has {node.count(kind)} {kind}" for node in nodes)
    advice = f"lower islands.{island.name}.workers or add nodes"
    if not any(node.count(kind) for node in nodes):
        missing = get_accelerator(kind).missing()
        advice = f"add nodes that have some, or use another islands.{island.name}.accelerator"
        advice += f" (on this machine {missing})" if missing else ""
    workers = "worker" if island.workers == 1 else "workers"
    free = {0: "none is free", 1: "only 1 device is free"}.get(
        found, f"only {found} devices are free"
    )
    return LaunchError(
        f"island {island.name} asks for {island.workers} {kind} {workers}, one device each, but "
        f"{free} ({counts}); {advice}"
    )


def _spec(
    island: Island, first_index: int, count: int, node: str | None, first_device: int = 0
) -> AgentSpec:
    whole = count == island.workers
    return AgentSpec(
        name=island.name if whole else f"{island.name}-{first_index}",
        island=island.name,
        role=island.role,
        accelerator=island.accelerator,
        threads=island.threads,
        first_index=first_index,
        num_workers=count,
        first_device=first_device,
        node=node,
    )


def make_seats(specs: Sequence[AgentSpec], agents: Mapping[str, AgentFacts]) -> tuple[Seat, ...]:
    """The places for workers in rank order: islands as in the job file, then by index. `agents`:
    what each said of itself, by name."""
    seats: list[Seat] = []
    for spec in specs:
        seats += _seats_of(spec, agents[spec.name].node)
    return tuple(seats)


def seats_of_job(islands: Sequence[Island]) -> tuple[Seat, ...]:
    """The seats that a job asks for, on no node in particular: for a look at the plan."""
    seats: list[Seat] = []
    for island in islands:
        seats += _seats_of(_spec(island, 0, island.workers, None), island.node or "-")
    return tuple(seats)


def _seats_of(spec: AgentSpec, node: str) -> list[Seat]:
    devices = devices_of(spec).items()
    return [Seat(worker, spec.island, spec.role, node, device) for worker, device in devices]


def devices_of(spec: AgentSpec) -> dict[str, str]:
    """Worker -> its device, such as `cuda:3`, for all workers of an agent.

    Workers that share their machine are numbered through the island.
    """
    shared = get_accelerator(spec.accelerator).shares_machine
    first = spec.first_index if shared else spec.first_device
    return {worker: f"{spec.accelerator}:{first + i}" for i, worker in enumerate(spec.workers)}
