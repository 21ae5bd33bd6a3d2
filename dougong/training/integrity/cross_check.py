"""What two computations of a step came to, told by those who made them. Collective: all workers
call the same methods in the same order, and find the same."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.parallel.comm.world import World
from dougong.training.integrity.verdict import (
    DIGEST_BYTES,
    Computed,
    Disagreement,
    first_disagreement,
)


class CrossCheck:
    """Between what each worker has computed of its own part, and what another one has of it."""

    def __init__(self, world: World, part_of: Sequence[int]) -> None:
        """`part_of[rank]`: whose part that worker has computed again."""
        self._world, self._part_of = world, part_of

    def difference(self, first: Computed, second: Computed) -> Disagreement | None:
        """`first`: of this worker's own part; `second`: of the one that it has taken over. Only
        digests travel where all are the same."""
        payload = first.digest + second.digest
        said = self._world.gather_bytes(payload, [len(payload)] * self._world.size, "an audit")
        pairs = enumerate(self._part_of)
        if all(said[rank][DIGEST_BYTES:] == said[part][:DIGEST_BYTES] for rank, part in pairs):
            return None
        return first_disagreement(self.gather(first), self.gather_by_part(second))

    def gather(self, mine: Computed) -> list[Computed]:
        """By rank."""
        payloads = self._world.gather_bytes(mine.encode(), what="numbers of an audit")
        return [Computed.decode(payload) for payload in payloads]

    def gather_by_part(self, mine: Computed) -> list[Computed]:
        """By the part that was computed again."""
        found = self.gather(mine)
        return [found[self._part_of.index(part)] for part in range(len(found))]
