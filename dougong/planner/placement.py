"""Which agent serves which part of an island, on which node, and the seats they make. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dougong.accelerators.registry import get_accelerator
from dougong.control.handshake import AgentFacts
from dougong.errors import PlanError
from dougong.job.schema import Island
from dougong.parallel.plan import Role, Seat
from dougong.planner.no_room import too_few_devices
from dougong.planner.nodes import UNNAMED, Node, allowed_nodes
from dougong.planner.stretches import stretches


@dataclass(frozen=True)
class AgentSpec:
    """One agent: `num_workers` workers of an island from index `first_index`, on one node.

    `node`: the node's id, or None when the placement may choose. `first_device`: number of its
    first device among those that the agent's process can see. `room`: for how many workers it holds
    devices; None: for those that it has. One that has none stands by. `avoided`: keys of devices in
    quarantine there; it holds as many more, and leaves those out, since nobody can choose which it
    is given. `shares_device`: all its workers use one device, and other agents may use it, too.
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
    room: int | None = None
    avoided: tuple[str, ...] = ()
    shares_device: bool = False

    @property
    def num_places(self) -> int:
        """For how many workers it holds devices."""
        return self.num_workers if self.room is None else self.room

    @property
    def num_devices(self) -> int:
        """How many devices its workers use."""
        return 1 if self.shares_device else self.num_places

    @property
    def stands_by(self) -> bool:
        """Whether it is a spare, which has no workers yet."""
        return self.num_workers == 0

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of its workers, by index."""
        return tuple(f"{self.island}/{self.first_index + i}" for i in range(self.num_workers))


def lay_out(
    islands: Sequence[Island],
    nodes: Sequence[Node],
    shared: bool = True,
    kept: Sequence[AgentSpec] = (),
) -> tuple[AgentSpec, ...]:
    """Agents for all workers of a job, in rank order, each on a node that answers. The order of
    `nodes` is of no account.

    An island goes to the node with most room where it fits, else over the fewest nodes. Room of an
    island of devices are devices that nobody holds; room of one that shares its machines are
    processors, of which each thread of a worker takes one. When these do not suffice, all nodes
    are loaded evenly. What is hard to place comes first: devices, then pins, then large islands.

    `shared`: agents of one node see all its devices, so that each must begin after the last one's;
    otherwise an agent sees only its own, and `free` of a node does not hold those of `kept`.
    `kept`: agents that stay as they are; the other workers of their islands are laid out anew.

    Raises NoRoomError with the numbers of every node.
    """
    nodes = sorted(nodes, key=lambda node: node.order)
    room = FreeRoom.of(nodes, shared, kept)
    waiting = [_Wish.of(island, nodes, kept) for island in islands]
    waiting = [wish for wish in waiting if wish.indices]
    specs = list(kept)
    for wish in sorted(waiting, key=lambda wish: wish.ease):
        waiting.remove(wish)
        specs += room.place(wish, waiting)
    _refuse_equal_names(specs)
    return in_rank_order(islands, specs)


def in_rank_order(islands: Sequence[Island], specs: Iterable[AgentSpec]) -> tuple[AgentSpec, ...]:
    """Islands as in the job file, then by index; of an island those that stand by come last."""
    ranks = {island.name: rank for rank, island in enumerate(islands)}
    return tuple(sorted(specs, key=lambda spec: (ranks[spec.island], spec.first_index)))


def _refuse_equal_names(specs: Sequence[AgentSpec]) -> None:
    """An island called as a part of another one is rare, and its agents would be mistaken."""
    islands: dict[str, str] = {}
    for spec in specs:
        other = islands.setdefault(spec.name, spec.island)
        if other != spec.island:
            raise PlanError(
                f"islands {other} and {spec.island}: both would have an agent {spec.name}; give "
                "one of them another name"
            )


@dataclass(frozen=True)
class _Wish:
    """The workers of an island that have no place yet, by index, and the nodes where they may
    run."""

    island: Island
    indices: tuple[int, ...]
    nodes: tuple[Node, ...]

    @staticmethod
    def of(island: Island, nodes: Sequence[Node], kept: Sequence[AgentSpec]) -> _Wish:
        placed: set[int] = set()
        for spec in kept:
            if spec.island == island.name:
                placed.update(range(spec.first_index, spec.first_index + spec.num_workers))
        indices = tuple(index for index in range(island.workers) if index not in placed)
        allowed = allowed_nodes(island, nodes) if indices else ()
        return _Wish(island, indices, tuple(allowed))

    @property
    def kind(self) -> str:
        return self.island.accelerator

    @property
    def shares_machine(self) -> bool:
        return get_accelerator(self.kind).shares_machine

    @property
    def ease(self) -> tuple[bool, int, int]:
        """How easy it is to place: what comes first is hardest."""
        size = len(self.indices) * self.island.threads
        return self.shares_machine, len(self.nodes), -size


@dataclass
class FreeRoom:
    """What is left of the nodes while islands are placed, one after the other.

    `devices`: numbers of those left, by the node's id and kind; `together`: likewise, the one that
    islands use together. `threads`: of workers that have been placed, by the node's id.

    Devices in quarantine are passed over by their numbers where they are known; else whoever takes
    some takes so many more.
    """

    shared: bool
    devices: dict[tuple[str, str], list[int]]
    threads: dict[str, int]
    together: dict[tuple[str, str], int] = field(default_factory=dict)

    @staticmethod
    def of(nodes: Sequence[Node], shared: bool, kept: Sequence[AgentSpec]) -> FreeRoom:
        devices = {}
        for node in nodes:
            for kind in node.devices:
                devices[node.id, kind] = node.numbers(kind)
        room = FreeRoom(shared, devices, {node.id: 0 for node in nodes})
        for spec in kept:
            room._keep(spec)
        return room

    def place(self, wish: _Wish, later: Sequence[_Wish]) -> list[AgentSpec]:
        """Agents for it; what they take is left no more. `later`: those that come after it."""
        if wish.island.shares_device:
            return [self._on_one_device(wish)]
        if wish.shares_machine:
            counts = self._share_processors(wish)
        else:
            counts = self._share_devices(wish, later)
        specs: list[AgentSpec] = []
        indices = list(wish.indices)
        for node, count in counts:
            specs += self._take(wish.island, node, indices[:count])
            del indices[:count]
        return specs

    def left(self, node: Node, kind: str) -> int:
        """How many devices of a kind can still be taken there."""
        num_left = len(self.devices.get((node.id, kind), ()))
        return max(num_left - len(self._avoided(node, kind)), 0)

    def reserve(self, island: Island, node: Node, count: int, name: str) -> AgentSpec | None:
        """An agent that stands by there, with so many devices at least in a row; None: there are
        not so many."""
        avoided = self._avoided(node, island.accelerator)
        spec = replace(_spec(island, island.workers, 0, node.id), name=name, room=count)
        spec = replace(spec, avoided=avoided)
        if get_accelerator(island.accelerator).shares_machine:
            return spec
        if island.shares_device:
            number = self._common_device(node, island.accelerator)
            return None if number is None else replace(spec, first_device=number)
        left = self.devices.get((node.id, island.accelerator), [])
        for first in left:
            taken = range(first, first + count + len(avoided))
            if set(taken) <= set(left):
                left[:] = [number for number in left if number not in taken]
                return replace(spec, first_device=first if self.shared else 0)
        return None

    def _keep(self, spec: AgentSpec) -> None:
        assert spec.node is not None, "an agent that lives is somewhere"
        if spec.node not in self.threads:
            return  # its node is not one of those on which others may be placed
        self.threads[spec.node] += spec.num_workers * spec.threads
        if spec.shares_device:
            self.together[spec.node, spec.accelerator] = spec.first_device
        left = self.devices.get((spec.node, spec.accelerator))
        if self.shared and left is not None:
            taken = range(spec.first_device, spec.first_device + spec.num_devices)
            left[:] = [number for number in left if number not in taken]

    # Devices

    def _share_devices(self, wish: _Wish, later: Sequence[_Wish]) -> list[tuple[Node, int]]:
        """How many workers on which node: all on one where they fit, else on few."""
        missing = len(wish.indices)

        def preference(node: Node) -> tuple[bool, int, int]:
            left = self.left(node, wish.kind)
            return left < missing, _num_claims(node, wish.kind, later), -left

        counts = []
        for node in sorted(wish.nodes, key=preference):
            count = min(missing, self.left(node, wish.kind))
            if count:
                counts.append((node, count))
                missing -= count
        if missing:
            left = [(node, self.left(node, wish.kind)) for node in wish.nodes]
            raise too_few_devices(wish.island, len(wish.indices), left)
        return counts

    def _on_one_device(self, wish: _Wish) -> AgentSpec:
        """An agent for all of them, on a device that others use together already, if there is
        one."""
        island, count = wish.island, len(wish.indices)
        in_use = [node for node in wish.nodes if (node.id, wish.kind) in self.together]
        others = sorted(wish.nodes, key=lambda node: -self.left(node, wish.kind))
        for node in (*in_use, *others):
            number = self._common_device(node, wish.kind)
            if number is not None:
                self.threads[node.id] += count * island.threads
                spec = _spec(island, wish.indices[0], count, node.id, number)
                return replace(spec, avoided=self._avoided(node, wish.kind))
        raise too_few_devices(island, 1, [(node, 0) for node in wish.nodes])

    def _common_device(self, node: Node, kind: str) -> int | None:
        """The number of the node's device that islands use together, taken now if none is yet."""
        key = (node.id, kind)
        if key not in self.together:
            if not self.left(node, kind):
                return None
            num_taken = 1 + len(self._avoided(node, kind))
            taken = self.devices[key][:num_taken]
            del self.devices[key][:num_taken]
            self.together[key] = taken[0] if self.shared else 0
        return self.together[key]

    def _avoided(self, node: Node, kind: str) -> tuple[str, ...]:
        return () if self.shared else node.left_out.get(kind, ())

    # Processors

    def _share_processors(self, wish: _Wish) -> list[tuple[Node, int]]:
        """How many workers on which node: all on one where they fit, else in proportion over as few
        as hold them, else evenly over all."""
        nodes = sorted(wish.nodes, key=lambda node: -self._free_cpus(node))
        nodes = [node for node in nodes if node.cpus > 0] or nodes
        chosen = self._fewest(nodes, wish)
        threads = wish.island.threads
        counts = {node.id: 0 for node in chosen}

        def load(node: Node) -> float:
            """The part of its processors in use when it takes one more worker."""
            more = (counts[node.id] + 1) * threads
            cpus = max(node.cpus, 1.0)
            return (cpus - self._free_cpus(node) + more) / cpus

        loads = sorted((load(node), number) for number, node in enumerate(chosen))  # a heap
        for _ in wish.indices:
            node = chosen[number := loads[0][1]]
            counts[node.id] += 1
            heapq.heapreplace(loads, (load(node), number))
        return [(node, counts[node.id]) for node in chosen if counts[node.id]]

    def _fewest(self, nodes: Sequence[Node], wish: _Wish) -> list[Node]:
        """The first ones, as many as have processors for all workers; all where they have not."""
        chosen: list[Node] = []
        slots = 0
        for node in nodes:
            if slots >= len(wish.indices):
                break
            chosen.append(node)
            # The hundredth of a processor that somebody's agent holds is nobody's work.
            slots += max(0, round(self._free_cpus(node)) // wish.island.threads)
        return chosen

    def _free_cpus(self, node: Node) -> float:
        free = node.cpus if node.free_cpus is None else node.free_cpus
        return free - self.threads[node.id]

    # What both take

    def _take(self, island: Island, node: Node, indices: Sequence[int]) -> list[AgentSpec]:
        """Agents for these workers on one node: one, unless its indices or devices have gaps."""
        self.threads[node.id] += len(indices) * island.threads
        left = self.devices.get((node.id, island.accelerator))
        numbers = list(range(len(indices)))
        avoided = self._avoided(node, island.accelerator)
        if left is not None:
            num_taken = len(indices) + len(avoided)
            taken, left[:] = left[:num_taken], left[num_taken:]
            numbers = taken if self.shared else numbers
        specs = []
        for first, number, count in stretches(indices, numbers):
            first_device = number if self.shared and left is not None else 0
            spec = _spec(island, first, count, node.id, first_device)
            specs.append(replace(spec, avoided=avoided))
        return specs


def _num_claims(node: Node, kind: str, later: Sequence[_Wish]) -> int:
    """How many islands that are pinned have yet to find devices of this kind there."""
    claims = [wish for wish in later if wish.kind == kind and wish.island.node is not None]
    return sum(node in wish.nodes for wish in claims)


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
        shares_device=island.shares_device,
    )


def make_seats(specs: Sequence[AgentSpec], agents: Mapping[str, AgentFacts]) -> tuple[Seat, ...]:
    """The places for workers in rank order: islands as in the job file, then by index. `agents`:
    what each said of itself, by name."""
    seats: list[Seat] = []
    for spec in specs:
        if not spec.stands_by:
            seats += _seats_of(spec, agents[spec.name].node)
    return tuple(seats)


def seats_of_job(islands: Sequence[Island]) -> tuple[Seat, ...]:
    """The seats that a job asks for, on no node in particular: for a look at the plan."""
    seats: list[Seat] = []
    for island in islands:
        seats += _seats_of(_spec(island, 0, island.workers, None), island.node or UNNAMED)
    return tuple(seats)


def _seats_of(spec: AgentSpec, node: str) -> list[Seat]:
    devices = devices_of(spec).items()
    return [Seat(worker, spec.island, spec.role, node, device) for worker, device in devices]


def devices_held(spec: AgentSpec) -> tuple[str, ...]:
    """The devices that an agent holds, such as `cuda:3`, whether it has workers for them or not."""
    numbers = range(spec.first_device, spec.first_device + spec.num_devices)
    return tuple(f"{spec.accelerator}:{number}" for number in numbers)


def devices_of(spec: AgentSpec) -> dict[str, str]:
    """Worker -> its device, such as `cuda:3`, for all workers of an agent; of one that stands by,
    for those that it could have, under names of its own.

    Workers that share their machine are numbered through the island; those that share a device all
    have its number.
    """
    shared = get_accelerator(spec.accelerator).shares_machine
    first = spec.first_index if shared else spec.first_device
    names = spec.workers or [f"{spec.name}/{i}" for i in range(spec.num_places)]
    step = 0 if spec.shares_device else 1
    return {worker: f"{spec.accelerator}:{first + i * step}" for i, worker in enumerate(names)}
