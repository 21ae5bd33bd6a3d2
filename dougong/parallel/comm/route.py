"""Which way a tensor takes to a peer: by the island's native library, or through host memory.

The native library (`native`) moves what lies on a device, inside one island. Everything else goes
by gloo, which reaches every worker and speaks from host memory: what lies on a device is copied
there before it leaves, and from there when it has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.parallel.comm.wait import PeerWait, RankedWork


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
    done: `host` waited for, and what has landed in `landings` copied to its place."""

    host: list[RankedWork] = field(default_factory=list)
    landings: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def wait_for_host(self, wait: PeerWait) -> None:
        """Until all has been sent or has arrived in host memory."""
        wait.for_works(self.host)

    def land(self) -> None:
        """Copy what has arrived in host memory to where it belongs."""
        for landed, target in self.landings:
            target.copy_(landed)


@dataclass(frozen=True)
class Route:
    """The way of one kind of messages through host memory: a gloo group, None in a world of one."""

    group: dist.ProcessGroup | None = None

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
        for transfer in receives:
            if transfer.tensor.numel():
                self._receive(transfer, begun, wait)
        for transfer in sends:
            if transfer.tensor.numel():
                self._send(transfer, begun, wait)
        return begun

    # Only the library's own calls stand inside the wait. A copy from a device is where a fault of
    # an earlier kernel comes to light, which no peer has brought about.

    def _receive(self, transfer: Transfer, begun: UnderWay, wait: PeerWait) -> None:
        tensor, rank = transfer.tensor, transfer.rank
        landing = host_memory(tensor)
        with wait.of([rank]):
            work = dist.irecv(landing, rank, self.group, transfer.tag)
        begun.host.append((rank, _begun(work)))
        if landing is not tensor:
            begun.landings.append((landing, tensor))

    def _send(self, transfer: Transfer, begun: UnderWay, wait: PeerWait) -> None:
        tensor, rank = transfer.tensor, transfer.rank
        host = tensor.cpu()  # itself, where it lies there already
        with wait.of([rank]):
            work = dist.isend(host, rank, self.group, transfer.tag)
        begun.host.append((rank, _begun(work)))


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


def host_memory(tensor: Tensor) -> Tensor:
    """The tensor itself where it lies in host memory, else room there for one like it."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None, "a message within one's own group"
    return work
