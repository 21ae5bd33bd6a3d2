"""What of the dense tensors a worker has at a time where they come and go by units (`dense:
shard`), segment by segment of a step in zebra. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dougong.parallel.dense.buckets import GRADIENT_BYTES, Bucket, item_bytes
from dougong.parallel.plan import Plan
from dougong.parallel.units import DenseUnits


@dataclass(frozen=True)
class UnitBytes:
    """Of one worker with lanes; all have the same. `weights`: of each unit, in compute precision;
    `gradients`: one sum of each; of both, what is there throughout a step."""

    units: DenseUnits
    weights: tuple[int, ...]
    gradients: tuple[int, ...]
    lasting_weights: int
    lasting_gradients: int

    @staticmethod
    def of(units: DenseUnits, buckets: Sequence[Bucket], groups: Sequence[range]) -> UnitBytes:
        """`groups`: the numbers of their buckets, those of what is lasting first."""
        weights, gradients = [], []
        for numbers in groups:
            weights.append(sum(item_bytes(buckets[n]) * buckets[n].numel for n in numbers))
            gradients.append(GRADIENT_BYTES * sum(buckets[n].numel for n in numbers))
        return UnitBytes(units, tuple(weights[1:]), tuple(gradients[1:]), weights[0], gradients[0])

    def forward(self, segment: int) -> int:
        """Weights while a segment runs: those that it touches, and the next unit, which is on its
        way. Behind the last one the backward's first is."""
        first, last = self.units.by_segment[segment]
        is_last = segment == len(self.units.by_segment) - 1
        return self._weights(first - 1 if is_last else first, last + 1)

    def backward(self, segment: int) -> int:
        """Weights while a segment is walked back."""
        first, last = self.units.by_segment[segment]
        return self._weights(first - 1, last)

    def sums(self, segment: int) -> int:
        """Gradients of one lane then: of what it touches, or of the unit behind it, whose sum may
        still be on its way while the first of its own come."""
        first, last = self.units.by_segment[segment]
        most = max(sum(self.gradients[first : last + 1]), sum(self.gradients[last : last + 2]))
        return self.lasting_gradients + most

    def _weights(self, first: int, last: int) -> int:
        return self.lasting_weights + sum(self.weights[max(0, first) : last + 1])

    @property
    def largest(self) -> tuple[str, int]:
        """The unit that takes most, and its weights' bytes."""
        place = max(range(len(self.weights)), key=self.weights.__getitem__)
        return self.units.units[place].name, self.weights[place]


def owned_gradient_bytes(buckets: Sequence[Bucket], plan: Plan) -> list[int]:
    """By rank, of the sums of what a worker owns, which are there from a step's backward to the
    next one's."""
    found = [0] * len(plan.workers)
    for bucket in buckets:
        for owner, part in bucket.parts.items():
            found[owner] += GRADIENT_BYTES * (part.stop - part.start)
    return found
