"""Which source of a mixture a sample belongs to: a pure function of its number. Imports no torch.

Two sources alone are shared as a line is drawn on a raster: of the first n samples the first has
n x its share, rounded. More of them form a tree (Huffman's: the two lightest are joined, again and
again), each node of which shares its samples so among its two sides. At any n a node's side is
within half a sample of its share of what the node has; the node itself is off by at most 3/2, since
in Huffman's tree no inner node has more than 2/3 of the one above it. So of the first n samples a
source has its share but for less than two, whatever the weights and however many sources there are.
Nothing is walked through: sample 10**12 costs what sample 1 does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

_MOST_WEIGHT = 1 << 30
"""Of all sources together: a product of two such numbers is exact in int64."""


def whole_weights(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Whole numbers in the proportion of `weights`, which are above 0; where they would be larger
    than can be computed with, rounded to one part in 2**30 of all."""
    scale = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    common = math.gcd(*whole)
    whole = [weight // common for weight in whole]
    total = sum(whole)
    if total > _MOST_WEIGHT:
        whole = [max(1, round(Fraction(weight * _MOST_WEIGHT, total))) for weight in whole]
    return tuple(whole)


@dataclass(frozen=True)
class _Fork:
    """A node of the tree: a source, or two sides of which the left one has `left.weight` of
    `weight` samples."""

    weight: int
    source: int
    sides: tuple[_Fork, _Fork] | None = field(default=None, repr=False)

    def of_left(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many of the first so many samples of this node are the left side's."""
        assert self.sides is not None
        share, whole = self.sides[0].weight, self.weight
        rounds, rest = np.divmod(numbers, whole)
        found: npt.NDArray[np.int64] = rounds * share + (rest * share + whole // 2) // whole
        return found


class Blend:
    """`weights`: of each source, whole numbers above 0."""

    def __init__(self, weights: Sequence[int]) -> None:
        assert weights and min(weights) > 0, f"weights {weights}"
        self.weights = tuple(weights)
        heap = [(weight, source, _Fork(weight, source)) for source, weight in enumerate(weights)]
        heapq.heapify(heap)
        while len(heap) > 1:
            # Of equal weights the earlier source first: the tree is the weights' alone.
            (one, first, left), (other, second, right) = heapq.heappop(heap), heapq.heappop(heap)
            source = min(first, second)
            fork = _Fork(one + other, source, (left, right))
            heapq.heappush(heap, (one + other, source, fork))
        self._root = heap[0][2]

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of all samples that each source has."""
        total = sum(self.weights)
        return tuple(weight / total for weight in self.weights)

    def choose(
        self, samples: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The source of each sample, and which of that source's samples it is, counted from 0;
        int64 [samples] both."""
        sources, numbers = np.empty_like(samples), np.empty_like(samples)
        waiting = [(self._root, np.arange(samples.size), samples)]
        while waiting:
            fork, places, here = waiting.pop()
            if fork.sides is None:
                sources[places], numbers[places] = fork.source, here
                continue
            before = fork.of_left(here)
            is_left = fork.of_left(here + 1) > before
            waiting.append((fork.sides[0], places[is_left], before[is_left]))
            waiting.append((fork.sides[1], places[~is_left], (here - before)[~is_left]))
        return sources, numbers

    def counts(self, num_samples: int) -> tuple[int, ...]:
        """How many of the first so many samples each source has."""
        found = [0] * len(self.weights)
        waiting = [(self._root, np.array([num_samples], dtype=np.int64))]
        while waiting:
            fork, count = waiting.pop()
            if fork.sides is None:
                found[fork.source] = int(count[0])
                continue
            left = fork.of_left(count)
            waiting += [(fork.sides[0], left), (fork.sides[1], count - left)]
        return tuple(found)
