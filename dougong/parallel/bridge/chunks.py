"""How transfers are cut in chunks, alike at both ends: from numbers of bytes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from dougong.parallel.comm.packing import as_bytes
from dougong.parallel.comm.transfer import Transfer


@dataclass(frozen=True)
class ChunkRule:
    """How large chunks are: a transfer is cut in `parts`, none of them smaller than `least_bytes`
    or larger than `most_bytes`. `num_connections`: so many take chunks by turns.

    Why: n chunks on three legs alike take as long as n + 2 of them on one, so that 32 are nearly as
    fast as the slowest leg; and each costs some tenths of a millisecond of a processor. The sizes
    lie between those that were tried (benchmarks/README.md).
    """

    parts: int = 32
    least_bytes: int = 512 << 10
    most_bytes: int = 2 << 20
    num_connections: int = 1

    def chunk_bytes(self, num_bytes: int) -> int:
        """Of every chunk but the last one, of a transfer of so many bytes."""
        return min(max(-(-num_bytes // self.parts), self.least_bytes), self.most_bytes)

    def chunks(self, transfer: Transfer) -> Iterator[Chunk]:
        """One or more, in order."""
        size = transfer.num_bytes
        step = self.chunk_bytes(size)
        for number, begin in enumerate(range(0, size, step)):
            end = min(begin + step, size)
            yield Chunk(transfer, number, begin, end, number % self.num_connections)


@dataclass(frozen=True)
class Chunk:
    """Bytes `begin` to `end` of a transfer: its chunk `number`, by this connection."""

    transfer: Transfer
    number: int
    begin: int
    end: int
    connection: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin

    @property
    def tensor(self) -> Tensor:
        """The bytes where the transfer's tensor has them: uint8 [num_bytes]."""
        return as_bytes(self.transfer.tensor)[self.begin : self.end]


def leaving(rule: ChunkRule, transfers: Sequence[Transfer], rank: int, size: int) -> list[Chunk]:
    """The chunks of all that `rank` of `size` workers sends, in the order in which they leave."""
    return _in_turns(rule, transfers, lambda receiver: (receiver - rank) % size)


def arriving(rule: ChunkRule, transfers: Sequence[Transfer], rank: int, size: int) -> list[Chunk]:
    """The chunks of all that `rank` of `size` workers receives, in the order in which they come."""
    return _in_turns(rule, transfers, lambda sender: (rank - sender) % size)


def _in_turns(
    rule: ChunkRule, transfers: Sequence[Transfer], distance: Callable[[int], int]
) -> list[Chunk]:
    """All transfers' first chunks, then all their second ones; those of a turn by how far it is
    around the ring of ranks from sender to receiver, then by tag.

    Why a worker that has room for one chunk alone, and takes this order, never waits in a circle:
    number, distance, sender and tag put all chunks of all workers in one order, and each worker's
    two lists follow it. Of all chunks that have not arrived yet the first one has nothing before it
    at either end, so both are at it. The ring has it that not all send to the first rank first.
    """
    chunks: list[Chunk] = []
    for transfer in transfers:
        chunks += rule.chunks(transfer)

    def turn(chunk: Chunk) -> tuple[int, int, int]:
        return chunk.number, distance(chunk.transfer.rank), chunk.transfer.tag

    return sorted(chunks, key=turn)
