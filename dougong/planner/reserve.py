"""Agents that stand by: how many an island should have, where they go, and whose places they take.
Pure.

An agent stands by as a spare, or for workers that the job has lost and goes on without.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from dougong.accelerators.registry import get_accelerator
from dougong.errors import NoRoomError
from dougong.job.schema import Island
from dougong.planner.nodes import Node, allowed_nodes
from dougong.planner.placement import AgentSpec, FreeRoom


@dataclass(frozen=True)
class Gap:
    """`count` workers of an island, from index `first` on, that no agent has."""

    first: int
    count: int


@dataclass(frozen=True)
class ReserveLayout:
    """Agents that are to stand by, and in words those for which there is no room."""

    specs: tuple[AgentSpec, ...] = ()
    short: tuple[str, ...] = ()


def gaps(island: Island, specs: Sequence[AgentSpec]) -> list[Gap]:
    """The workers of an island that none of these agents has."""
    served = sorted(
        (spec.first_index, spec.num_workers) for spec in specs if spec.island == island.name
    )
    found, index = [], 0
    for first, count in [*served, (island.workers, 0)]:
        if first > index:
            found.append(Gap(index, first - index))
        index = max(index, first + count)
    return found


def missing_workers(islands: Sequence[Island], specs: Sequence[AgentSpec]) -> tuple[str, ...]:
    """Names of the workers that none of these agents has."""
    names: list[str] = []
    for island in islands:
        for gap in gaps(island, specs):
            names += [f"{island.name}/{gap.first + i}" for i in range(gap.count)]
    return tuple(names)


# Where they go


def lay_out_reserve(
    islands: Sequence[Island],
    nodes: Sequence[Node],
    shared: bool,
    kept: Sequence[AgentSpec],
) -> ReserveLayout:
    """Agents that should stand by beside those that are `kept`, as far as there is room. `shared`:
    as for `lay_out`.

    First come those for workers that are missing, which may be fewer than are. A node without
    workers is preferred, then one without any of the same island: who stands by on the machine of
    those whom he is to replace is lost with it.
    """
    nodes = sorted(nodes, key=lambda node: node.order)
    room = FreeRoom.of(nodes, shared, kept)
    specs: list[AgentSpec] = []
    short: list[str] = []
    for island in islands:
        for count, least in _wanted(island, kept):
            placing = _SpareSearch(island, (*kept, *specs), room)
            try:
                specs.append(placing.place(nodes, count, least))
            except NoRoomError as error:
                short.append(str(error))
    return ReserveLayout(tuple(specs), tuple(short))


def _wanted(island: Island, kept: Sequence[AgentSpec]) -> list[tuple[int, int]]:
    """(for how many workers, for how many at least) of the agents that an island lacks."""
    own = [spec for spec in kept if spec.island == island.name]
    missing = [gap.count for gap in gaps(island, own)]
    largest = max([spec.num_workers for spec in own] + missing, default=island.workers)
    wanted = [(count, 1) for count in missing] + [(largest, largest)] * island.spares
    for spec in own:
        if spec.stands_by:
            met = [one for one in wanted if _fits(spec, one[1])]
            if met:
                wanted.remove(met[0])
    return wanted


def _fits(spec: AgentSpec, count: int) -> bool:
    """Whether an agent that stands by can have so many workers: those that share a machine are as
    many as one likes."""
    return get_accelerator(spec.accelerator).shares_machine or spec.num_places >= count


@dataclass(frozen=True)
class _SpareSearch:
    """The search for a place for one agent of an island. `others`: all that have one."""

    island: Island
    others: Sequence[AgentSpec]
    room: FreeRoom

    def place(self, nodes: Sequence[Node], count: int, least: int) -> AgentSpec:
        """For `count` workers, or for fewer, but `least`. NoRoomError where there is no place."""
        candidates = sorted(allowed_nodes(self.island, nodes), key=self._preference)
        name = self._name()
        for size in range(count, least - 1, -1):
            for node in candidates:
                spec = self.room.reserve(self.island, node, size, name)
                if spec is not None:
                    return spec
        kind = self.island.accelerator
        raise NoRoomError(
            f"island {self.island.name}: an agent that stands by needs {least} {kind} on one node, "
            "and no node has so many free"
        )

    def _preference(self, node: Node) -> tuple[bool, bool, int, int]:
        here = [spec for spec in self.others if spec.node == node.id]
        serves = [spec.island for spec in here if not spec.stands_by]
        left = self.room.left(node, self.island.accelerator)
        return bool(serves), self.island.name in serves, len(here), -left

    def _name(self) -> str:
        used = {spec.name for spec in self.others}
        number = 1
        while (name := f"{self.island.name}-spare-{number}") in used:
            number += 1
        return name


# Whose places they take


def take_places(lost: Sequence[AgentSpec], standing: Sequence[AgentSpec]) -> dict[str, AgentSpec]:
    """By name of a lost agent, the one that takes its place, if there is one: the smallest that can
    have its workers."""
    found: dict[str, AgentSpec] = {}
    left = list(standing)
    for spec in sorted(lost, key=lambda spec: -spec.num_workers):
        fitting = [one for one in left if one.island == spec.island]
        fitting = [one for one in fitting if _fits(one, spec.num_workers)]
        if fitting:
            taken = min(fitting, key=lambda one: (one.num_places, one.name))
            left.remove(taken)
            found[spec.name] = serving(taken, Gap(spec.first_index, spec.num_workers))
    return found


def fill_gaps(
    islands: Sequence[Island], specs: Sequence[AgentSpec], standing: Collection[AgentSpec]
) -> Iterator[AgentSpec]:
    """Those of `standing` that can take workers which none of `specs` has, with these: as many as
    each can have."""
    left = sorted(standing, key=lambda spec: -spec.num_places)
    for island in islands:
        for gap in gaps(island, specs):
            own = [spec for spec in left if spec.island == island.name]
            if not own:
                continue
            whole = [spec for spec in own if _fits(spec, gap.count)]
            taken = whole[-1] if whole else own[0]
            left.remove(taken)
            count = gap.count if whole else taken.num_places
            yield serving(taken, Gap(gap.first, count))


def serving(spec: AgentSpec, gap: Gap) -> AgentSpec:
    """The same agent, with these workers."""
    room = max(spec.num_places, gap.count)
    return replace(spec, first_index=gap.first, num_workers=gap.count, room=room)
