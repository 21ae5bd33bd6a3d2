"""Where a generation's workers meet: at the store of the controller, and in the process groups
that they then make together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from dougong.errors import PeerError
from dougong.parallel.comm import gloo
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.route import Groups
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.schedules.operation import MessageKind

MORE_CONNECTIONS = 1
"""Beside the one that there always is; see benchmarks/README.md."""


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
                pg_options=gloo.options(member.address, self._patience),
            )

    def make(self, ranks: list[int]) -> dist.ProcessGroup:
        """A group of these ranks by gloo; it is of no use to the others."""
        with self._wait():
            mine = None
            if self._member.rank in ranks:
                mine = gloo.options(self._member.address, self._patience)
            group: dist.ProcessGroup = dist.new_group(
                ranks, backend=gloo.NAME, timeout=self._patience, pg_options=mine
            )
        return group

    def make_more(self, ranks: list[int]) -> tuple[dist.ProcessGroup, ...]:
        """Further groups of these ranks by gloo, for large messages over bridges; none where there
        are no bridges."""
        if not self._member.has_bridges:
            return ()
        return tuple(self.make(ranks) for _ in range(MORE_CONNECTIONS))

    def make_native(self, among: Collection[int]) -> dist.ProcessGroup | None:
        """The native library's group of one's island, of the ranks that are `among` these."""
        own = None
        for name, backend, ranks in self._member.islands:
            members = [rank for rank in ranks if rank in among]
            # A worker alone sends nothing, and to torch an empty list means everybody.
            if backend != "gloo" and len(members) > 1:
                group = self._make_native(members, backend)
                own = group if name == self._member.island else own
        return own

    def make_groups_of_kinds(self) -> dict[MessageKind, Groups]:
        """Those of the messages between attention and experts."""
        everybody = list(range(self._member.size))
        # Both kinds of messages of one direction share a gloo group, where tags tell them apart.
        # The native library knows no tags, so each kind has a group of its own there.
        by_gloo = {"dispatch": self.make(everybody), "combine": self.make(everybody)}
        more = {direction: self.make_more(everybody) for direction in by_gloo}
        kinds = {}
        for kind in MessageKind:
            way = kind.direction
            kinds[kind] = Groups(by_gloo[way], self.make_native(everybody), more[way])
        return kinds

    def _make_native(self, ranks: list[int], backend: str) -> dist.ProcessGroup:
        with self._wait():
            group: dist.ProcessGroup = dist.new_group(
                ranks, backend=backend, timeout=self._patience
            )
        return group

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
