"""The cut of the lanes into contiguous shares that ships the fewest nodes of the reduction tree.

What a share ships depends on where it begins and ends alone (a run of lanes has one set of maximal
nodes), so the nodes of all shares are a sum over neighbouring borders. Of the ways to give the
first i shares so that the i-th ends at a lane, only the cheapest can be the beginning of a cheapest
whole: a shortest path, one share after the other. The ends of a share are a stretch of lanes, so
each step is a few operations on whole arrays. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dougong.parallel.tree import LaneTree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]


def cut_lanes(tree: LaneTree, sizes: Sequence[range]) -> list[tuple[int, ...]]:
    """Cut the lanes into contiguous shares, the i-th of a size in `sizes[i]`, that ship the fewest
    nodes together. `sizes`: ascending without a gap, from 1 on.

    Raises ValueError when no choice of sizes gives the number of lanes.
    """
    least, most = sum(part[0] for part in sizes), sum(part[-1] for part in sizes)
    if not least <= tree.num_lanes <= most or not sizes:
        raise ValueError(f"no shares of the sizes {list(sizes)} make {tree.num_lanes} lanes")
    has_choice = least < most
    chosen = _chosen_sizes(tree, sizes) if has_choice else [part[0] for part in sizes]
    borders = itertools.accumulate(chosen, initial=0)
    return [tuple(range(*pair)) for pair in itertools.pairwise(borders)]


@dataclass(frozen=True)
class _Ends:
    """Where a share can end, from `first` on, and which of its sizes leads to each end on a
    cheapest way."""

    first: int
    choice: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Ways:
    """The cheapest ways to give the first shares, by where the last one ends, from `first_end` on.

    num_nodes   that are shipped so far
    place       of several ways that cost the same, that of the highest place is taken
    """

    first_end: int
    num_nodes: Numbers
    place: Numbers


def _chosen_sizes(tree: LaneTree, sizes: Sequence[range]) -> list[int]:
    """From the last border back, how the cheapest way came there."""
    end, chosen = tree.num_lanes, []
    for part, ends in zip(reversed(sizes), reversed(_ends_of_all(tree, sizes)), strict=True):
        size = part[ends.choice[end - ends.first]]
        chosen.append(size)
        end -= size
    return chosen[::-1]


def _ends_of_all(tree: LaneTree, sizes: Sequence[range]) -> list[_Ends]:
    """By share."""
    import numpy as np

    nodes = _NodesOfRuns(tree)
    zero = np.zeros(1, np.int64)
    ways = _Ways(0, zero, zero)
    found = []
    for part, ends in zip(sizes, _reachable_ends(tree.num_lanes, sizes), strict=True):
        ways, choice = _one_more(ways, part, ends, nodes)
        # All are kept until the last share: a choice is among a few sizes.
        found.append(_Ends(ways.first_end, choice.astype(np.min_scalar_type(len(part)))))
    return found


def _one_more(
    before: _Ways, sizes: range, ends: range, nodes: _NodesOfRuns
) -> tuple[_Ways, Numbers]:
    """One more share of one of the sizes, that ends at one of `ends` (elsewhere, what is left could
    not be given to the shares that follow), and which size leads to each end."""

    num_before = len(before.num_nodes)
    first = max(before.first_end + sizes[0], ends[0])
    last = min(before.first_end + num_before - 1 + sizes[-1], ends[-1])
    found = _SizeComparison(first, last - first + 1, num_before * len(sizes) + 1)
    for number, size in enumerate(sizes):
        begin = max(first, before.first_end + size)
        end = min(last + 1, before.first_end + num_before + size)
        if begin >= end:
            continue
        there = slice(begin - size - before.first_end, end - size - before.first_end)
        cost = before.num_nodes[there] + nodes.of_size(size)[begin - size : end - size]
        found.add(number, begin, cost, before.place[there] * len(sizes) + number)
    return found.ways(), found.choice


class _SizeComparison:
    """Of the ways to each end the best.

    A way's key: its nodes, and below them its number, the later one smaller. Of the ways to an end
    the smallest key is taken; ends stand in the order of their largest ones, costly first.
    """

    def __init__(self, first_end: int, num_ends: int, num_ways: int) -> None:
        """`num_ways`: above the number of any."""
        import numpy as np

        self._first_end, self._num_ways = first_end, num_ways
        self._best = np.full(num_ends, np.iinfo(np.int64).max)
        self._worst = np.full(num_ends, -1)
        self.choice: Numbers = np.zeros(num_ends, np.int64)

    def add(self, choice: int, begin: int, cost: Numbers, number: Numbers) -> None:
        """Ways to the ends from `begin` on, by a choice of size."""
        import numpy as np

        here = slice(begin - self._first_end, begin - self._first_end + len(cost))
        key = cost * self._num_ways + (self._num_ways - 1 - number)
        self.choice[here] = np.where(key < self._best[here], choice, self.choice[here])
        self._best[here] = np.minimum(self._best[here], key)
        self._worst[here] = np.maximum(self._worst[here], key)

    def ways(self) -> _Ways:
        import numpy as np

        place = np.empty(len(self._best), np.int64)
        place[np.argsort(-self._worst)] = np.arange(len(place))
        return _Ways(self._first_end, self._best // self._num_ways, place)


class _NodesOfRuns:
    """Number of maximal nodes in runs of lanes."""

    def __init__(self, tree: LaneTree) -> None:
        self._tree = tree
        self._by_size: dict[int, Numbers] = {}

    def of_size(self, size: int) -> Numbers:
        """By first lane, of the runs of so many."""
        if size not in self._by_size:
            self._by_size[size] = self._count(size)
        return self._by_size[size]

    def _count(self, size: int) -> Numbers:
        import numpy as np

        num_lanes = self._tree.num_lanes
        first = np.arange(num_lanes - size + 1)
        end = first + size
        # The largest power of two that divides a lane of the run, or its end, parts it: each node
        # before that ends at one bit of what lies before, each behind it at one of what lies
        # behind.
        top = _highest_bits(first ^ end)
        middle = end & -top
        found = np.bitwise_count(middle - first) + np.bitwise_count(end - middle)
        counts: Numbers = found.astype(np.int64)
        # The last run may reach beyond the last lane.
        counts[-1] = len(self._tree.held(range(num_lanes - size, num_lanes)))
        return counts


def _highest_bits(numbers: Numbers) -> Numbers:
    """Of each number the highest bit that is set."""
    import numpy as np

    # Exact: a float64 holds any number of lanes.
    _, exponents = np.frexp(numbers.astype(np.float64))
    return np.left_shift(np.int64(1), exponents.astype(np.int64) - 1)


def _reachable_ends(num_lanes: int, sizes: Sequence[range]) -> list[range]:
    """Where each share can end, so that those behind it can take exactly what is left."""
    ends = []
    least_left = most_left = 0
    for part in reversed(sizes):
        ends.append(range(num_lanes - most_left, num_lanes - least_left + 1))
        least_left += part[0]
        most_left += part[-1]
    return ends[::-1]
