"""A sink for tests of flights."""

from __future__ import annotations

from collections.abc import Iterable

from dougong.parallel.segments.tape import GraphNode
from torch import Tensor


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.expected: set[GraphNode] = set()
        self.taken: list[tuple[GraphNode, Tensor]] = []
        self.ended = False

    def begin(self, leaves: Iterable[GraphNode]) -> None:
        self.expected = set(leaves)

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        self.taken.append((leaf, gradient))

    def end(self) -> None:
        self.ended = True
