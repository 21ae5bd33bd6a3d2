"""The fixed binary tree over lane numbers in which every sum across lanes is taken.

The tree depends on the number of lanes alone. A node (start, size) covers lanes start ..
start+size-1 that exist; its value is the sum of its children, left plus right; a missing right
child adds nothing. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TreeNode = tuple[int, int]
"""(first lane, size: a power of two)."""
Add = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class LaneTree:
    """The reduction tree of `num_lanes` lanes."""

    num_lanes: int

    @property
    def root(self) -> TreeNode:
        return 0, 1 << (self.num_lanes - 1).bit_length()

    def children(self, node: TreeNode) -> list[TreeNode]:
        """One or two children; none for a lane."""
        start, size = node
        if size == 1:
            return []
        half = size // 2
        right = [(start + half, half)] if start + half < self.num_lanes else []
        return [(start, half), *right]

    def held(self, lanes: Collection[int]) -> list[TreeNode]:
        """The maximal nodes whose lanes are all in `lanes`: what a worker with these lanes
        ships."""
        return self._held(self.root, frozenset(lanes))

    def _held(self, node: TreeNode, lanes: frozenset[int]) -> list[TreeNode]:
        start, size = node
        if all(lane in lanes for lane in range(start, min(start + size, self.num_lanes))):
            return [node]
        return [n for child in self.children(node) for n in self._held(child, lanes)]

    def split(self, sizes: Sequence[range]) -> list[tuple[int, ...]]:
        """Cut the lanes into contiguous shares, the i-th of a size in `sizes[i]`, that ship the
        fewest nodes together.

        Raises ValueError when no choice of sizes gives the number of lanes.
        """
        least = list(itertools.accumulate((part[0] for part in reversed(sizes)), initial=0))[-2::-1]
        most = list(itertools.accumulate((part[-1] for part in reversed(sizes)), initial=0))[-2::-1]
        # best[end]: (nodes shipped, (shares before the last one, its first lane)) of the shares so
        # far, which end there
        best: dict[int, tuple[int, Any]] = {0: (0, None)}
        for part, fewest, rest in zip(sizes, least, most, strict=True):
            options = [
                (first + size, shipped + self._count_held(first, size), (before, first))
                for first, (shipped, before) in best.items()
                for size in part
                if self.num_lanes - rest <= first + size <= self.num_lanes - fewest
            ]
            options.sort(key=lambda option: option[1], reverse=True)
            best = {end: (shipped, shares) for end, shipped, shares in options}
        if self.num_lanes not in best:
            raise ValueError(f"no shares of the sizes {list(sizes)} make {self.num_lanes} lanes")
        bounds, chain = [self.num_lanes], best[self.num_lanes][1]
        while chain is not None:
            chain, first = chain
            bounds.insert(0, first)
        return [tuple(range(*pair)) for pair in itertools.pairwise(bounds)]

    def _count_held(self, first: int, size: int) -> int:
        """Number of maximal nodes in a run of lanes."""
        count, end = 0, first + size
        while first < end:
            node = first & -first or self.root[1]  # the largest node that begins here ...
            while first + node > end and not (end == self.num_lanes and first + node // 2 < end):
                node //= 2  # ... and does not reach beyond the run (what reaches beyond the last lane is empty)
            first, count = first + node, count + 1
        return count

    def sum(
        self,
        values: Mapping[TreeNode, Tensor],
        node: TreeNode | None = None,
        add: Add | None = None,
    ) -> Tensor:
        """The value of `node` (default: the root) from the values of nodes below it, in place:
        `add(left, right)` says into which of the two, by default the left.

        Raises KeyError when a lane is missing.
        """
        node = node or self.root
        if node in values:
            return values[node]
        children = self.children(node)
        if not children:
            raise KeyError(f"no value for lane {node[0]}")
        left = self.sum(values, children[0], add)
        if len(children) == 1:
            return left
        right = self.sum(values, children[1], add)
        return add(left, right) if add is not None else left.add_(right)

    def sum_numbers(self, values: Mapping[int, float]) -> float:
        """The same tree over plain numbers by lane, for losses."""
        return self._sum_numbers(self.root, values)

    def _sum_numbers(self, node: TreeNode, values: Mapping[int, float]) -> float:
        children = self.children(node)
        if not children:
            return values[node[0]]
        parts = [self._sum_numbers(child, values) for child in children]
        return parts[0] + parts[1] if len(parts) == 2 else parts[0]
