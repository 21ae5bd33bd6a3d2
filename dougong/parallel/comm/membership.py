"""A worker's place in its generation, and how its peers are called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import torch

from dougong.deadlines import DEADLINES, Deadlines
from dougong.parallel.comm.threads import Waits


def _never() -> bool:
    """Of a generation that lasts until its work is done."""
    return False


def _to_nobody(ranks: Collection[int]) -> None:
    """Where nobody watches."""


@dataclass(frozen=True)
class Membership:
    """Who this worker is among the workers of a generation.

    `islands`: (name, native backend or "gloo", ranks) of every island. `attention`: the ranks that
    hold dense tensors and exchange their gradients. `names`: the workers' names by rank, for
    errors. `deadlines`: how long to wait for each other. `address`: this worker's own network
    address, over which its peers reach it; the default suits workers of one machine. `is_over`:
    whether the generation is to be left, which may be found at any moment. `keeps_snapshots`:
    workers keep each other's state, and have a group for it. `awaits`: told the ranks that the
    calling thread waits for, and none when that is over. `waits`: those for threads, which end with
    the generation.
    """

    rank: int
    size: int
    generation: int
    island: str
    islands: tuple[tuple[str, str, tuple[int, ...]], ...]
    device: torch.device
    attention: tuple[int, ...]
    names: tuple[str, ...] = ()
    deadlines: Deadlines = DEADLINES
    address: str = "127.0.0.1"
    is_over: Callable[[], bool] = _never
    keeps_snapshots: bool = True
    awaits: Callable[[Collection[int]], None] = _to_nobody
    waits: Waits = field(default_factory=Waits, compare=False, repr=False)

    @property
    def native_peers(self) -> frozenset[int]:
        """The ranks that the island's native library reaches, oneself among them."""
        for name, backend, ranks in self.islands:
            if name == self.island and backend != "gloo":
                return frozenset(ranks)
        return frozenset()

    @property
    def island_ranks(self) -> tuple[int, ...]:
        """All ranks of this worker's island, ascending."""
        for name, _, ranks in self.islands:
            if name == self.island:
                return ranks
        return (self.rank,)

    def in_words(self, ranks: Iterable[int]) -> str:
        """Such as `worker 1 (east/1)` or `workers 1 (east/1), 2 (west/0)`."""
        shown = [self._named(rank) for rank in ranks]
        return f"{'worker' if len(shown) == 1 else 'workers'} {', '.join(shown)}"

    def _named(self, rank: int) -> str:
        return f"{rank} ({self.names[rank]})" if rank < len(self.names) else str(rank)
