"""What a worker has sent to each of the others, by what it was for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from dougong.parallel.schedules.operation import MessageKind


class TrafficKind(Enum):
    """What bytes between workers are for. The first four are messages of the experts' calls,
    without their sizes."""

    ROWS = MessageKind.ROWS.value
    OUTPUTS = MessageKind.OUTPUTS.value
    OUTPUT_GRADIENTS = MessageKind.OUTPUT_GRADIENTS.value
    ROW_GRADIENTS = MessageKind.ROW_GRADIENTS.value
    SIZES = "sizes"
    """Heads of messages, and the headers of rows."""
    SUMS = "dense sums"
    """Gradients of tensors outside the experts, on their way to the owners."""
    WEIGHTS = "weights"
    """Those tensors' new values, from their owners to everybody who computes with them."""
    REPORTS = "reports"
    """Losses, norms and checksums, from everybody to everybody."""
    COUNTS = "counts"
    """The experts' load, added up by the library."""
    REPLICAS = "replicas"
    """Snapshots of a worker's state, to those who keep them too."""

    @property
    def number(self) -> int:
        """Its place among all kinds."""
        return _NUMBERS[self]


_NUMBERS = {kind: number for number, kind in enumerate(TrafficKind)}


class SentTraffic:
    """Bytes and messages that one worker has handed over for others, by kind and peer.

    They are what it sends: headers of the library below and of the network come on top. What the
    library adds up itself (`all_reduce`) is counted as a ring sends it.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank = rank
        shape = (len(TrafficKind), world_size)
        self.num_bytes: NDArray[np.int64] = np.zeros(shape, np.int64)
        """By kind's number and rank; so is `num_messages`."""
        self.num_messages: NDArray[np.int64] = np.zeros(shape, np.int64)

    def add(self, kind: TrafficKind, rank: int, num_bytes: int) -> None:
        """One message to a peer. One without a byte does not travel."""
        if num_bytes:
            self.num_bytes[kind.number, rank] += num_bytes
            self.num_messages[kind.number, rank] += 1

    def add_to_each(
        self, kind: TrafficKind, ranks: Sequence[int], sizes: Sequence[int], row_bytes: int
    ) -> None:
        """One message to each of these other workers, of so many rows; none to oneself, and none
        without a row."""
        rows = np.asarray(sizes, np.int64)
        to = np.asarray(ranks, np.int64)
        travels = (rows > 0) & (to != self._rank)
        self.num_bytes[kind.number, to[travels]] += rows[travels] * row_bytes
        self.num_messages[kind.number, to[travels]] += 1

    def add_ring(self, kind: TrafficKind, ranks: Sequence[int], rank: int, num_bytes: int) -> None:
        """What `rank` sends when a library adds up `num_bytes` of each of `ranks` in a ring."""
        share = ring_share(len(ranks), num_bytes)
        if share:
            self.add(kind, ring_target(ranks, rank), round(share))

    def total(self, *kinds: TrafficKind) -> int:
        """Bytes of these kinds to all peers; of all kinds where none is named."""
        numbers = [kind.number for kind in kinds or TrafficKind]
        return int(self.num_bytes[numbers].sum())


def ring_target(ranks: Sequence[int], rank: int) -> int:
    """To whom a worker sends in a ring."""
    return ranks[(ranks.index(rank) + 1) % len(ranks)]


def ring_share(num_workers: int, num_bytes: float) -> float:
    """What every worker sends when `num_bytes` are added up in a ring: each part goes round twice,
    once to be added and once to be given back (Patarasu and Yuan 2009, section 3)."""
    return 2 * num_bytes * (num_workers - 1) / num_workers
