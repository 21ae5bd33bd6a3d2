"""What is to travel: a tensor, and who is at the other end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dougong.parallel.comm.traffic import TrafficKind

TAGS, TRANSFERS_PER_PEER = 1 << 14, 1 << 12
"""Of transfers of each kind, before their tags begin again."""


@dataclass(frozen=True)
class Transfer:
    """A tensor for `rank`, or the memory for one from it. Contiguous. `tag`: the same number at
    both ends, by which messages between two ranks are told apart; those that begin together between
    two islands have different ones."""

    rank: int
    tensor: Tensor
    tag: int = 0

    @property
    def num_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


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


def _tagged(transfers: Sequence[Transfer], first_tag: int) -> list[Transfer]:
    """With tags that count the transfers of every peer."""
    counts = Counter[int]()
    tagged = []
    for transfer in transfers:
        tagged.append(replace(transfer, tag=first_tag + counts[transfer.rank]))
        counts[transfer.rank] += 1
    return tagged
