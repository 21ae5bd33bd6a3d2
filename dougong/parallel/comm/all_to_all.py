"""What goes between all workers of an island in one call of a library, each share of its own
size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.parallel.comm.message import SplitTensor
from dougong.parallel.comm.peers import PeerEnd, Peers


@dataclass(frozen=True)
class AllToAll:
    """One part of a message at this worker (MPI_Alltoallv): `sent` and `received` are contiguous,
    [N, ...], their first dimension cut into a share for each member of the group."""

    sent: Tensor
    received: Tensor
    sent_sizes: list[int]
    received_sizes: list[int]

    @classmethod
    def of(
        cls,
        peers: Peers,
        sent: SplitTensor | None,
        received: SplitTensor | None,
        device: torch.device,
    ) -> AllToAll:
        """The island's shares of what leaves and of the room for what comes, each None where this
        worker is not on that side."""
        leaving, sent_sizes = _in_island(sent, peers.targets, peers.group_size)
        coming, received_sizes = _in_island(received, peers.sources, peers.group_size)
        like = leaving if leaving is not None else coming
        if like is None:
            like = torch.empty(0, dtype=torch.uint8, device=device)
        nothing = like.new_empty((0, *like.shape[1:]))
        return cls(
            nothing if leaving is None else leaving,
            nothing if coming is None else coming,
            sent_sizes,
            received_sizes,
        )

    def on_host(self) -> AllToAll:
        """The same in host memory: itself where it lies there; else what leaves is copied, and
        there is room for what comes."""
        if self.sent.device.type == "cpu":
            return self
        received = torch.empty(self.received.shape, dtype=self.received.dtype)
        return AllToAll(self.sent.cpu(), received, self.sent_sizes, self.received_sizes)

    def begin(self, group: dist.ProcessGroup) -> dist.Work:
        """By the library's own collective. Collective over the group."""
        work: dist.Work | None = dist.all_to_all_single(
            self.received,
            self.sent,
            self.received_sizes,
            self.sent_sizes,
            group=group,
            async_op=True,
        )
        assert work is not None
        return work

    def begin_one_by_one(self, group: dist.ProcessGroup) -> list[dist.Work]:
        """By a message for each share that is not empty, where the library has no such collective.
        The worker's own share is copied."""
        own = dist.get_group_rank(group, dist.get_rank())
        operations = []
        shares = (
            (dist.irecv, self.received.split(self.received_sizes)),
            (dist.isend, self.sent.split(self.sent_sizes)),
        )
        for start, pieces in shares:
            for member, piece in enumerate(pieces):
                if member != own and piece.numel():
                    peer = dist.get_global_rank(group, member)
                    operations.append(dist.P2POp(start, piece, peer, group))
        shares[0][1][own].copy_(shares[1][1][own])
        return list(dist.batch_isend_irecv(operations)) if operations else []


def _in_island(
    part: SplitTensor | None, end: PeerEnd, group_size: int
) -> tuple[Tensor | None, list[int]]:
    """The island's shares of a part, and their sizes by member of the group."""
    if part is None:
        return None, [0] * group_size
    values = part.values[end.rows_there(part.sizes)]
    return values, end.sizes_in_group(part.sizes, group_size)
