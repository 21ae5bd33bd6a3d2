"""A piece of memory of which parts are taken and given back in one order."""

from __future__ import annotations

from collections import deque

from torch import Tensor


class ScratchRing:
    """Parts of `memory`, each in one piece. The oldest is given back first."""

    def __init__(self, memory: Tensor) -> None:
        """`memory`: of one dimension."""
        self.memory = memory
        self._taken: deque[tuple[int, int]] = deque()

    def take(self, numel: int) -> Tensor | None:
        """So many elements; None where that many are not free in one piece."""
        begin = self._begin(numel)
        if begin is None:
            return None
        self._taken.append((begin, begin + numel))
        return self.memory[begin : begin + numel]

    def give_back(self) -> None:
        """The oldest part is free."""
        self._taken.popleft()

    def _begin(self, numel: int) -> int | None:
        if not self._taken:
            return 0 if numel <= len(self.memory) else None
        (oldest, _), (newest, end) = self._taken[0], self._taken[-1]
        if newest < oldest:  # it has begun at the front again
            return end if end + numel <= oldest else None
        if end + numel <= len(self.memory):
            return end
        return 0 if numel <= oldest else None
