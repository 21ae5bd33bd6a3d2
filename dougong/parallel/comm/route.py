"""Which way a tensor takes to a peer: by the island's native library, over a bridge, or by gloo.

The native library (NCCL, HCCL) moves what lies on a device, inside one island. A bridge
(`parallel.bridge`) joins islands of which one computes on a device. Everything else lies in host
memory at both ends and goes by gloo, which reaches every worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch.distributed as dist
from torch import Tensor

from dougong.parallel.bridge.base import BridgeEnd, BridgeWork
from dougong.parallel.comm.packing import as_bytes, pack, places, room_for
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait, RankedWork


@dataclass(frozen=True)
class Groups:
    """Process groups of one kind of messages: gloo between everybody, the native library inside
    one's island. None in a world of one. `more`: further ones by gloo, for large messages between
    islands."""

    gloo: dist.ProcessGroup | None = None
    native: dist.ProcessGroup | None = None
    more: tuple[dist.ProcessGroup, ...] = ()

    @property
    def connections(self) -> tuple[dist.ProcessGroup, ...]:
        """All by gloo."""
        return () if self.gloo is None else (self.gloo, *self.more)


@dataclass
class UnderWay:
    """Transfers that have begun. Their tensors may neither be read nor changed before they are
    done: `host`, `bridged` and `native` waited for, and what has landed in `native_landings`
    copied to its place. `sent`: buffers that must stay until then."""

    host: list[RankedWork] = field(default_factory=list)
    bridged: list[BridgeWork] = field(default_factory=list)
    native: list[dist.Work] = field(default_factory=list)
    native_landings: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    sent: list[Tensor] = field(default_factory=list)

    @property
    def needs_thread(self) -> bool:
        """Whether `wait_for_host` has something to wait for."""
        return bool(self.host or self.bridged)

    def wait_for_host(self, wait: PeerWait) -> None:
        """Until what goes by gloo or over bridges has been sent, or lies in its place. What is
        under way of one route is waited for in the order in which it began, in one thread."""
        for work in self.bridged:
            work.wait(wait)
        wait.for_works(self.host)

    def wait_for_native(self, wait: PeerWait) -> None:
        """Until the native library has done its part, and what it has brought lies in its place; on
        the stream of the thread that calls."""
        wait.for_collective(self.native)
        _copy(self.native_landings)


def _copy(landings: Sequence[tuple[Tensor, Tensor]]) -> None:
    for landed, target in landings:
        target.copy_(landed)


@dataclass(frozen=True)
class Route:
    """The way of one kind of messages. `native_peers`: the ranks that the native library reaches;
    `ends`: those of the bridges to other islands, by the rank beyond."""

    groups: Groups
    native_peers: frozenset[int] = frozenset()
    ends: Mapping[int, BridgeEnd] = field(default_factory=dict)

    def is_native(self, tensor: Tensor, peer: int) -> bool:
        """The one place where it is decided. Both ends decide alike: a message's tensors lie on the
        same kind of device at both of them."""
        return peer in self.native_peers and tensor.device.type != "cpu"

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
        begun = UnderWay()
        coming, arriving = self._split(receives)
        going, leaving = self._split(sends)
        for transfer in coming.hosted:
            self._begin(dist.irecv, transfer, begun, wait)
        for transfer in going.hosted:
            self._begin(dist.isend, transfer, begun, wait)
        # In the same order on all workers, so that no two wait for each other on different bridges.
        for end in dict.fromkeys(self.ends.values()):
            there, here = going.bridged.get(end, []), coming.bridged.get(end, [])
            if there or here:
                begun.bridged.append(end.begin(there, here, wait))
        if arriving or leaving:
            self._begin_native(arriving, leaving, begun, wait)
        return begun

    def _split(self, transfers: Sequence[Transfer]) -> tuple[_ByWay, dict[int, list[Transfer]]]:
        """What goes by gloo or over bridges, and what by the native library, by the peer at the
        other end. Nothing of what is empty."""
        others = _ByWay()
        native: dict[int, list[Transfer]] = {}
        for transfer in transfers:
            if not transfer.tensor.numel():
                continue
            end = self.ends.get(transfer.rank)
            if self.is_native(transfer.tensor, transfer.rank):
                native.setdefault(transfer.rank, []).append(transfer)
            elif end is not None:
                others.bridged.setdefault(end, []).append(transfer)
            else:
                others.hosted.append(transfer)
        return others, native

    def _begin_native(
        self,
        arriving: Mapping[int, Sequence[Transfer]],
        leaving: Mapping[int, Sequence[Transfer]],
        begun: UnderWay,
        wait: PeerWait,
    ) -> None:
        operations = []
        for rank, transfers in arriving.items():
            tensors = _by_tag(transfers)
            room = room_for(tensors)
            operations.append(dist.P2POp(dist.irecv, room, rank, self.groups.native))
            if len(tensors) > 1:
                targets = map(as_bytes, tensors)
                begun.native_landings += zip(places(room, tensors), targets, strict=True)
        for rank, transfers in leaving.items():
            buffer = pack(_by_tag(transfers))
            operations.append(dist.P2POp(dist.isend, buffer, rank, self.groups.native))
            begun.sent.append(buffer)
        with wait.of(sorted({*arriving, *leaving})):
            begun.native += dist.batch_isend_irecv(operations)

    def _begin(
        self,
        call: Callable[..., dist.Work | None],
        transfer: Transfer,
        begun: UnderWay,
        wait: PeerWait,
    ) -> None:
        tensor, rank = transfer.tensor, transfer.rank
        with wait.of([rank]):
            work = call(tensor, rank, self.groups.gloo, transfer.tag)
        assert work is not None, "a message within one's own group"
        begun.host.append((rank, work))


@dataclass
class _ByWay:
    """Transfers between host memory and host memory, and those over each bridge."""

    hosted: list[Transfer] = field(default_factory=list)
    bridged: dict[BridgeEnd, list[Transfer]] = field(default_factory=dict)


def _by_tag(transfers: Sequence[Transfer]) -> list[Tensor]:
    """In an order that is the same at both ends."""
    return [transfer.tensor for transfer in sorted(transfers, key=lambda one: one.tag)]
