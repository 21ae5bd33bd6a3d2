"""Where a generation's workers meet: at the store of the controller, and in the process groups
that they then make together."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from dougong.errors import PeerError
from dougong.parallel.comm import gloo
from dougong.parallel.comm.all_to_all import AllToAll
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.native import NativeGroup
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.schedules.operation import Direction, MessageKind

MORE_CONNECTIONS = 1
"""Beside the one that there always is; that they help has yet to be measured."""


class GroupMaker:
    """Makes the process groups of a generation. Every method is collective over all workers, which
    make all groups in the same order, those of other workers too.

    To make a group is a wait for all others, with the same limit as the messages of the group.
    Every method raises PeerError when one of them is lost or does not come.
    """

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._what = f"process groups of generation {member.generation}"
        self._patience = timedelta(seconds=member.deadlines.message_s)
        self._listeners: dict[Direction, Any] = {}
        gloo.register()

    def make_first(self, store: Store) -> None:
        """The group of everybody, by gloo: the library's default one, which others need."""
        member = self._member
        with self._wait():
            dist.init_process_group(
                gloo.NAME,
                store=store,
                rank=member.rank,
                world_size=member.size,
                timeout=self._patience,
                pg_options=self._options(gloo.listen(member.address)),
            )

    def make(self, ranks: list[int], direction: Direction | None = None) -> dist.ProcessGroup:
        """A group of these ranks by gloo; it is of no use to the others. Those of one direction
        listen together, so that a worker needs no more ports than there are in a range for it."""
        with self._wait():
            mine = None
            if self._member.rank in ranks:
                mine = self._options(self._listener(direction))
            group: dist.ProcessGroup = dist.new_group(
                ranks, backend=gloo.NAME, timeout=self._patience, pg_options=mine
            )
        return group

    def make_native(self) -> NativeGroup | None:
        """The native library's group of one's island, ready to use.

        All communicators of an island are this one, and it is used at once: a library that makes
        connections when they are first needed would do so in the middle of a step, between
        operations that others wait for.
        """
        own = None
        for name, backend, ranks in self._member.islands:
            # A worker alone sends nothing.
            if backend != "gloo" and len(ranks) > 1:
                with self._wait():
                    group: dist.ProcessGroup = dist.new_group(
                        list(ranks), backend=backend, timeout=self._patience
                    )
                own = group if name == self._member.island else own
        return None if own is None else self._warm_up(own)

    def make_islands(self) -> dict[MessageKind, dist.ProcessGroup]:
        """By gloo, those of one's island. One for each kind of message: each has a thread, and
        operations of a group must begin in one order."""
        own: dict[MessageKind, dist.ProcessGroup] = {}
        islands = [(name, ranks) for name, _, ranks in self._member.islands if len(ranks) > 1]
        for kind, (name, ranks) in itertools.product(MessageKind, islands):
            group = self.make(list(ranks), kind.direction)
            if name == self._member.island:
                own[kind] = group
        return own

    def make_far(self) -> dict[Direction, dist.ProcessGroup]:
        """Those of messages between islands. Both kinds of a direction share one, where tags tell
        them apart."""
        if len(self._member.islands) == 1:
            return {}
        everybody = list(range(self._member.size))
        directions: tuple[Direction, ...] = ("dispatch", "combine")
        return {direction: self.make(everybody, direction) for direction in directions}

    def make_more(self) -> dict[Direction | None, tuple[dist.ProcessGroup, ...]]:
        """Further groups by gloo for large messages over bridges: between attention workers (None),
        and of each direction. None where there are no bridges."""
        if not self._member.has_bridges:
            return {}
        everybody, attention = list(range(self._member.size)), list(self._member.attention)
        directions: tuple[Direction | None, ...] = (None, "dispatch", "combine")
        more: dict[Direction | None, tuple[dist.ProcessGroup, ...]] = {}
        for direction in directions:
            ranks = attention if direction is None else everybody
            more[direction] = tuple(self.make(ranks, direction) for _ in range(MORE_CONNECTIONS))
        return more

    def _warm_up(self, group: dist.ProcessGroup) -> NativeGroup:
        """Send one number from each to each."""
        sent = torch.ones(group.size(), device=self._member.device)
        sizes = [1] * group.size()
        numbers = AllToAll(sent, torch.zeros_like(sent), sizes, sizes)
        with self._wait() as wait:
            has_all_to_all = True
            try:
                works = [numbers.begin(group)]
            except dist.DistError:
                raise  # a peer is lost
            except RuntimeError:
                # torch has no type for "does not support". What else it may be, messages one by
                # one meet too.
                has_all_to_all = False
                works = numbers.begin_one_by_one(group)
            wait.for_collective(works)
        return NativeGroup(group, has_all_to_all)

    def _options(self, listener: Any) -> Any:
        return gloo.options(listener, self._patience)

    def _listener(self, direction: Direction | None) -> Any:
        if direction is None:
            return gloo.listen(self._member.address)
        if direction not in self._listeners:
            self._listeners[direction] = gloo.listen(self._member.address)
        return self._listeners[direction]

    def _wait(self) -> PeerWait:
        return PeerWait(self._member, range(self._member.size), self._what)


def leave_groups() -> None:
    """End all process groups of this process, the default one first of all: the next generation
    makes its own. None may be there, where a worker could not join."""
    if dist.is_initialized():
        dist.destroy_process_group()


def meet(member: Membership, store: Store, note: Callable[[Arrival], None]) -> None:
    """Wait at the generation's store until all workers have come there. PeerError when not."""
    patience = timedelta(seconds=member.deadlines.rendezvous_s)
    store.set(_arrival(member.rank), "")
    note(Arrival.AT_STORE)
    try:
        store.wait([_arrival(rank) for rank in range(member.size)], patience)
    except dist.DistStoreError as error:
        raise not_joined(member, _in_vain(member, store)) from error


def not_joined(member: Membership, why: str) -> PeerError:
    """A PeerError: as a rule somebody else has ended, and this is the consequence."""
    return PeerError(
        f"{member.in_words([member.rank])} of {member.size} could not join generation "
        f"{member.generation}: {why}"
    )


def _in_vain(member: Membership, store: Store) -> str:
    """For whom this worker waited, in words, when not all workers have come."""
    missing = [rank for rank in range(member.size) if not store.check([_arrival(rank)])]
    return f"it waited {member.deadlines.words('rendezvous_s')} for {member.in_words(missing)}"


def _arrival(rank: int) -> str:
    return f"arrived-{rank}"
