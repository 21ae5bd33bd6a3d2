"""Which way a tensor takes to a peer that the island's native library does not reach.

The native library (`native`) moves what lies on a device, inside one island. A bridge
(`parallel.bridge`) joins islands of which one computes on a device. Everything else lies in host
memory at both ends and goes by gloo, which reaches every worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.accelerators.streams import Mark, wait_for
from dougong.parallel.bridge.base import BridgeEnd, BridgeWork
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import NewWait, PeerWait, RankedWork

TAGS, TRANSFERS_PER_PEER = 1 << 14, 1 << 12
"""Of transfers of each kind, before their tags begin again."""


@dataclass
class UnderWay:
    """Transfers that have begun. Their tensors may neither be read nor changed before they are
    done: `host` and `bridged` waited for, and what has landed in `landings` copied to its place."""

    host: list[RankedWork] = field(default_factory=list)
    bridged: list[BridgeWork] = field(default_factory=list)
    landings: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def needs_thread(self) -> bool:
        """Whether `wait_for_host` has something to wait for."""
        return bool(self.host or self.bridged)

    def wait_for_host(self, wait: PeerWait) -> None:
        """Until all has been sent or has arrived: in host memory, or where a bridge brings it. What
        is under way of one route is waited for in the order in which it began, in one thread."""
        for work in self.bridged:
            work.wait(wait)
        wait.for_works(self.host)

    def land(self) -> None:
        """Copy what has arrived in host memory to where it belongs."""
        for landed, target in self.landings:
            target.copy_(landed)


@dataclass(frozen=True)
class Route:
    """The way of one kind of messages. `group`: gloo's, None in a world of one; `ends`: of the
    bridges to other islands, by the rank beyond."""

    group: dist.ProcessGroup | None = None
    ends: Mapping[int, BridgeEnd] = field(default_factory=dict)

    def begin(
        self, sends: Sequence[Transfer], receives: Sequence[Transfer], wait: PeerWait
    ) -> UnderWay:
        """Begin all of them and return at once. What is empty does not travel: both ends know the
        sizes.

        Raises PeerError, in the words of `wait`, when a peer is known to have ended: even a start
        fails then.

        Every receive begins before any send, and nothing is waited for in between, so two workers
        that send to each other do not wait in a ring.
        """
        coming, going = self._split(receives), self._split(sends)
        begun = UnderWay()
        for transfer in coming.hosted:
            begun.host.append(self._begin(dist.irecv, transfer, wait))
        for transfer in going.hosted:
            begun.host.append(self._begin(dist.isend, transfer, wait))
        # In the same order on all workers, so that no two wait for each other on different bridges.
        for end in dict.fromkeys(self.ends.values()):
            there, here = going.bridged.get(end, []), coming.bridged.get(end, [])
            if there or here:
                begun.bridged.append(end.begin(there, here, wait))
        return begun

    def facts(self, peer: int) -> str:
        """How messages travel to this peer, in the words of the bridge to it; empty without one."""
        end = self.ends.get(peer)
        return "" if end is None else end.facts()

    def _split(self, transfers: Sequence[Transfer]) -> _ByWay:
        """Nothing of what is empty."""
        ways = _ByWay()
        for transfer in transfers:
            end = self.ends.get(transfer.rank)
            if not transfer.tensor.numel():
                continue
            if end is None:
                ways.hosted.append(transfer)
            else:
                ways.bridged.setdefault(end, []).append(transfer)
        return ways

    def _begin(
        self, call: Callable[..., dist.Work | None], transfer: Transfer, wait: PeerWait
    ) -> RankedWork:
        with wait.of([transfer.rank]):
            work = call(transfer.tensor, transfer.rank, self.group, transfer.tag)
        assert work is not None, "a message within one's own group"
        return transfer.rank, work


@dataclass
class _ByWay:
    """Transfers between host memory and host memory, and those over each bridge."""

    hosted: list[Transfer] = field(default_factory=list)
    bridged: dict[BridgeEnd, list[Transfer]] = field(default_factory=dict)


def split_native(
    transfers: Sequence[Transfer], native_peers: frozenset[int]
) -> tuple[list[Transfer], list[Transfer]]:
    """What goes through host memory, and what the native library of the island carries, which
    reaches `native_peers`; nothing of what is empty. Both ends decide alike: a message's tensors
    lie on the same kind of device at both of them."""
    hosted: list[Transfer] = []
    native: list[Transfer] = []
    for transfer in transfers:
        if transfer.tensor.numel():
            is_native = transfer.rank in native_peers and transfer.tensor.device.type != "cpu"
            (native if is_native else hosted).append(transfer)
    return hosted, native


def by_peer(transfers: Sequence[Transfer]) -> dict[int, list[Tensor]]:
    """The tensors of each peer, in an order that is the same at both ends."""
    found: dict[int, list[Tensor]] = {}
    for transfer in sorted(transfers, key=lambda one: one.tag):
        found.setdefault(transfer.rank, []).append(transfer.tensor)
    return found


@dataclass(frozen=True)
class Pending:
    """Transfers between attention workers that have begun. The tensors may neither be read nor
    changed before `wait` has returned. `_arrived`: called when all is there."""

    _under_way: UnderWay
    _host: Future[None] | None
    _native: Future[Mark] | None
    _device: torch.device
    _new_wait: NewWait
    _arrived: Callable[[], None] | None = None

    def is_done(self) -> bool:
        """Whether `wait` would return at once, and a device with it. Raises PeerError when a peer
        is lost."""
        if self._host is not None and not self._host.done():
            return False
        if self._native is None:
            return True
        if not self._native.done():
            return False
        with self._new_wait():
            marked = self._native.result()
            return marked is None or marked.query()

    def wait(self) -> None:
        """Until all that goes through host memory has been sent and received; what this thread
        gives the device from now on comes after the rest. Raises PeerError when a peer is lost or
        does not come."""
        with self._new_wait() as wait:
            if self._native is not None:
                wait_for(wait.for_future(self._native), self._device)
            if self._host is not None:
                wait.for_future(self._host)
        self._under_way.land()
        if self._arrived is not None:
            self._arrived()


class TransferTags:
    """Numbers transfers. Calls of a kind are in the same order on all workers, so their number, and
    a tensor's place among those with the same peer, are the same at both ends: a tag that nobody
    has to agree on."""

    def __init__(self) -> None:
        self._counts = Counter[TrafficKind]()

    def give(
        self, kind: TrafficKind, sends: Sequence[Transfer], receives: Sequence[Transfer]
    ) -> tuple[list[Transfer], list[Transfer]]:
        """The two lists of the next transfer of a kind, with their tags."""
        first = (kind.number * TAGS + self._counts[kind] % TAGS) * TRANSFERS_PER_PEER
        self._counts[kind] += 1
        return _tagged(sends, first), _tagged(receives, first)


class HostTransfers:
    """Transfers by gloo of tensors in the machine's memory, whatever workers compute on. They are
    in no order with what the native library moves. Each kind is waited for by itself, so that none
    stands behind another one."""

    def __init__(
        self,
        member: Membership,
        group: dist.ProcessGroup | None,
        tags: TransferTags,
        make_thread: Callable[[str], MessageThread],
    ) -> None:
        self._member, self._route, self._tags = member, Route(group), tags
        self._make_thread = make_thread
        self._waiters: dict[TrafficKind, MessageThread] = {}

    def begin(
        self,
        kind: TrafficKind,
        sends: Sequence[Transfer],
        receives: Sequence[Transfer],
        what: str,
        arrived: Callable[[], None] | None = None,
    ) -> Pending:
        """As `World.transfer`, but that nothing is counted. One thread at a time begins those of a
        kind. `arrived`: to be called when all is there."""
        peers = sorted({transfer.rank for transfer in (*sends, *receives)})

        def new_wait() -> PeerWait:
            return PeerWait(self._member, peers, what)

        under_way = self._route.begin(*self._tags.give(kind, sends, receives), new_wait())
        host = None
        if under_way.needs_thread:
            if kind not in self._waiters:
                self._waiters[kind] = self._make_thread(kind.value)
            host = self._waiters[kind].submit(wait_for_host, under_way, new_wait)
        return Pending(under_way, host, None, self._member.device, new_wait, arrived)


def wait_for_host(under_way: UnderWay, new_wait: NewWait) -> None:
    """Runs in a thread of its own: a message of gloo is not known to be complete before somebody
    has waited for it."""
    with new_wait() as wait:
        under_way.wait_for_host(wait)


def _tagged(transfers: Sequence[Transfer], first_tag: int) -> list[Transfer]:
    """With tags that count the transfers of every peer."""
    counts = Counter[int]()
    tagged = []
    for transfer in transfers:
        tagged.append(replace(transfer, tag=first_tag + counts[transfer.rank]))
        counts[transfer.rank] += 1
    return tagged
