"""The fixed binary tree over lane numbers in which every sum across lanes is taken.

The tree depends on the number of lanes alone. A node (start, size) covers lanes start ..
start+size-1 that exist; its value is the sum of its children, left plus right; a missing right
child adds nothing. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TreeNode = tuple[int, int]
"""(first lane, size: a power of two)."""
Add = Callable[["Tensor", "Tensor"], "Tensor"]
"""add(left, right) -> their sum, in one of the two."""


@dataclass(frozen=True)
class _Shares:
    """The first shares of a cut: where they begin and end, and how many nodes they ship."""

    num_nodes: int
    borders: tuple[int, ...]


def _cheapest_by_end(found: Iterable[_Shares]) -> dict[int, _Shares]:
    """By where the last share ends, the way there that ships the fewest nodes."""
    # Costly ones first, so that each end keeps a cheapest one; of equals the last found.
    costly_first = sorted(found, key=lambda shares: shares.num_nodes, reverse=True)
    return {shares.borders[-1]: shares for shares in costly_first}


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
        end = min(start + size, self.num_lanes)
        if all(lane in lanes for lane in range(start, end)):
            return [node]
        held = []
        for child in self.children(node):
            held += self._held(child, lanes)
        return held

    def split(self, sizes: Sequence[range]) -> list[tuple[int, ...]]:
        """Cut the lanes into contiguous shares, the i-th of a size in `sizes[i]`, that ship the
        fewest nodes together. Every share has one lane at least.

        Raises ValueError when no choice of sizes gives the number of lanes.
        """
        # Why this finds the fewest nodes. What a share ships depends on where it begins and ends
        # alone (a run of lanes has one set of maximal nodes), so the nodes of all shares are a sum
        # over neighbouring borders. Of the ways to give the first i shares so that the i-th ends at
        # a lane, only the cheapest can be the beginning of a cheapest whole: a shortest path, one
        # share after the other, at most (lanes x sizes) steps each.
        cheapest: dict[int, _Shares] = {0: _Shares(0, (0,))}
        for part, ends in zip(sizes, self._reachable_ends(sizes), strict=True):
            longer = []
            for before in cheapest.values():
                longer += self._one_more(before, part, ends)
            cheapest = _cheapest_by_end(longer)
        if self.num_lanes not in cheapest:
            raise ValueError(f"no shares of the sizes {list(sizes)} make {self.num_lanes} lanes")
        borders = cheapest[self.num_lanes].borders
        return [tuple(range(*pair)) for pair in itertools.pairwise(borders)]

    def _one_more(self, before: _Shares, sizes: range, ends: range) -> list[_Shares]:
        """All ways to add a share of one of the sizes that ends at one of `ends`: elsewhere, what
        is left could not be given to the shares that follow."""
        start = before.borders[-1]
        found = []
        for size in sizes:
            end = start + size
            if end in ends:
                num_nodes = before.num_nodes + self._count_held(start, size)
                found.append(_Shares(num_nodes, (*before.borders, end)))
        return found

    def _reachable_ends(self, sizes: Sequence[range]) -> list[range]:
        """Where each share can end, so that those behind it can take exactly what is left."""
        ends = []
        least_left = most_left = 0
        for part in reversed(sizes):
            ends.append(range(self.num_lanes - most_left, self.num_lanes - least_left + 1))
            least_left += part[0]
            most_left += part[-1]
        return ends[::-1]

    def _count_held(self, first: int, size: int) -> int:
        """Number of maximal nodes in a run of lanes."""
        count, end = 0, first + size
        while first < end:
            # A node of size 2^k begins at a multiple of 2^k, so the lowest bit that is set in
            # `first` is the size of the largest node that begins there.
            node = first & -first or self.root[1]
            while not self._fits(first, node, end):
                node //= 2
            first, count = first + node, count + 1
        return count

    def _fits(self, first: int, node: int, end: int) -> bool:
        """Whether a node lies inside a run that ends at `end`. At the last lane a node may reach
        beyond it, for there is nothing; but then its left half must not be all of it."""
        if first + node <= end:
            return True
        return end == self.num_lanes and first + node // 2 < end

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
