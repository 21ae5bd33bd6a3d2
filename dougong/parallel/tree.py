"""The fixed binary tree over lane numbers in which every sum across lanes is taken.

The tree depends on the number of lanes alone. A node (start, size) covers lanes start .. start+size-1 that exist; its
value is the sum of its children, left plus right; a missing right child adds nothing. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        """The maximal nodes whose lanes are all in `lanes`: what a worker with these lanes ships."""
        return self._held(self.root, frozenset(lanes))

    def _held(self, node: TreeNode, lanes: frozenset[int]) -> list[TreeNode]:
        start, size = node
        if all(lane in lanes for lane in range(start, min(start + size, self.num_lanes))):
            return [node]
        return [n for child in self.children(node) for n in self._held(child, lanes)]

    def split(self, parts: int) -> list[tuple[int, ...]]:
        """Cut the lanes into contiguous shares, sizes apart by one at most, that ship the fewest nodes together.

        `parts` is at most the number of lanes.
        """
        small, num_large = divmod(self.num_lanes, parts)
        # best[large]: (nodes shipped, sizes) of the parts so far, `large` of which have one lane more than the others
        best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
        for part in range(parts):
            least = num_large - (parts - part - 1)
            options = [
                (
                    large + extra,
                    shipped + self._count_held(part * small + large, small + extra),
                    (*sizes, small + extra),
                )
                for large, (shipped, sizes) in best.items()
                for extra in (0, 1)
                if least <= large + extra <= num_large
            ]
            options.sort(key=lambda option: option[1], reverse=True)
            best = {large: (shipped, sizes) for large, shipped, sizes in options}
        bounds = [0, *itertools.accumulate(best[num_large][1])]
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

    def sum(self, values: Mapping[TreeNode, Tensor], node: TreeNode | None = None, add: Add | None = None) -> Tensor:
        """The value of `node` (default: the root) from the values of nodes below it, in place: `add(left, right)` says
        into which of the two, by default the left.

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
