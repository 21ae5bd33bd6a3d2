"""Which way a tensor takes to a peer: by the island's native library, or through host memory.

The native library (NCCL, HCCL) moves what lies on a device, inside one island. Everything else goes
by gloo, which reaches every worker and speaks from host memory: what lies on a device is copied
there before it leaves, and from there when it has arrived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.parallel.comm.packing import as_bytes, pack, places, room_for
from dougong.parallel.comm.wait import PeerWait, RankedWork


@dataclass(frozen=True)
class Groups:
    """Process groups of one kind of messages: gloo between everybody, the native library inside
    one's island. None in a world of one."""

    gloo: dist.ProcessGroup | None = None
    native: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class Transfer:
    """A tensor for `rank`, or the memory for one from it. Contiguous. `tag`: the same number at
    both ends, by which messages between two ranks are told apart."""

    rank: int
    tensor: Tensor
    tag: int = 0

    @property
    def num_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


@dataclass
class UnderWay:
    """Transfers that have begun. Their tensors may neither be read nor changed before they are
    done: `host` and `native` waited for, and what has landed in `host_landings` and
    `native_landings` copied to its place. `sent`: buffers that must stay until then."""

    host: list[RankedWork] = field(default_factory=list)
    native: list[dist.Work] = field(default_factory=list)
    host_landings: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    native_landings: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    sent: list[Tensor] = field(default_factory=list)

    def wait_for_host(self, wait: PeerWait) -> None:
        """Until what goes through host memory has been sent or has arrived there."""
        wait.for_works(self.host)

    def wait_for_native(self, wait: PeerWait) -> None:
        """Until the native library has done its part, and what it has brought lies in its place; on
        the stream of the thread that calls."""
        wait.for_collective(self.native)
        _copy(self.native_landings)

    def land(self) -> None:
        """Copy what has arrived in host memory to where it belongs."""
        _copy(self.host_landings)


def _copy(landings: Sequence[tuple[Tensor, Tensor]]) -> None:
    for landed, target in landings:
        target.copy_(landed)


@dataclass(frozen=True)
class Route:
    """The way of one kind of messages. `native_peers`: the ranks that the native library
    reaches."""

    groups: Groups
    native_peers: frozenset[int] = frozenset()

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
        hosted, arriving = self._split(receives)
        for transfer in hosted:
            self._receive(transfer, begun, wait)
        hosted, leaving = self._split(sends)
        for transfer in hosted:
            self._send(transfer, begun, wait)
        if arriving or leaving:
            self._begin_native(arriving, leaving, begun, wait)
        return begun

    def _split(
        self, transfers: Sequence[Transfer]
    ) -> tuple[list[Transfer], dict[int, list[Transfer]]]:
        """What goes through host memory, and what by the native library, by the peer at the other
        end. Nothing of what is empty."""
        hosted: list[Transfer] = []
        native: dict[int, list[Transfer]] = {}
        for transfer in transfers:
            if not transfer.tensor.numel():
                continue
            if self.is_native(transfer.tensor, transfer.rank):
                native.setdefault(transfer.rank, []).append(transfer)
            else:
                hosted.append(transfer)
        return hosted, native

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

    # Only the library's own calls stand inside the wait. A copy from a device is where a fault of
    # an earlier kernel comes to light, which no peer has brought about.

    def _receive(self, transfer: Transfer, begun: UnderWay, wait: PeerWait) -> None:
        tensor, rank = transfer.tensor, transfer.rank
        landing = host_memory(tensor)
        with wait.of([rank]):
            work = dist.irecv(landing, rank, self.groups.gloo, transfer.tag)
        begun.host.append((rank, _begun(work)))
        if landing is not tensor:
            begun.host_landings.append((landing, tensor))

    def _send(self, transfer: Transfer, begun: UnderWay, wait: PeerWait) -> None:
        tensor, rank = transfer.tensor, transfer.rank
        host = tensor.cpu()  # itself, where it lies there already
        with wait.of([rank]):
            work = dist.isend(host, rank, self.groups.gloo, transfer.tag)
        begun.host.append((rank, _begun(work)))


def _by_tag(transfers: Sequence[Transfer]) -> list[Tensor]:
    """In an order that is the same at both ends."""
    return [transfer.tensor for transfer in sorted(transfers, key=lambda one: one.tag)]


def host_memory(tensor: Tensor) -> Tensor:
    """The tensor itself where it lies in host memory, else room there for one like it."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None, "a message within one's own group"
    return work
