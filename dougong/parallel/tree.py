"""The fixed binary tree over lane numbers in which every sum across lanes is taken.

The tree depends on the number of lanes alone. A node (start, size) covers lanes start ..
start+size-1 that exist; its value is the sum of its children, left plus right; a missing right
child adds nothing. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TreeNode = tuple[int, int]
"""(first lane, size: a power of two)."""
Add = Callable[["Tensor", "Tensor"], "Tensor"]
"""add(left, right) -> their sum, in one of the two."""


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
        held: list[TreeNode] = []
        for first, end in _runs(lanes):
            held += self._nodes_of_run(first, end)
        return held

    def _nodes_of_run(self, first: int, end: int) -> Iterator[TreeNode]:
        """The maximal nodes of the lanes first .. end-1, of which no neighbour is there."""
        while first < end:
            # A node of size 2^k begins at a multiple of 2^k, so the lowest bit that is set in
            # `first` is the size of the largest node that begins there.
            size = first & -first or self.root[1]
            if end < self.num_lanes:  # at the last lane it may reach beyond: there is nothing
                size = min(size, 1 << (end - first).bit_length() - 1)
            yield first, size
            first += size

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


def _runs(lanes: Collection[int]) -> list[tuple[int, int]]:
    """(first, end) of the unbroken stretches of some lanes, ascending."""
    runs: list[tuple[int, int]] = []
    for lane in sorted(lanes):
        if runs and runs[-1][1] >= lane:
            runs[-1] = runs[-1][0], lane + 1
        else:
            runs.append((lane, lane + 1))
    return runs
