"""How the dense tensors of units lie in buckets. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from dougong.parallel.dense.buckets import Bucket, BucketTensor, make_buckets
from dougong.parallel.units import DenseUnits


def unit_buckets(
    units: DenseUnits, tensors: Mapping[str, BucketTensor], owners: Mapping[str, int]
) -> tuple[list[Bucket], list[range]]:
    """Buckets of which none holds tensors of two units, in the order in which their gradients are
    complete: the last unit's first, those of lasting tensors last. And the numbers of each group's
    buckets, as `DenseUnits.groups` counts groups."""
    buckets: list[Bucket] = []
    numbers: list[range] = []
    lasting, *of_units = units.groups()
    for names in (*reversed(of_units), lasting):
        first = len(buckets)
        buckets += make_buckets({name: tensors[name] for name in reversed(names)}, owners)
        numbers.append(range(first, len(buckets)))
    *backwards, last = numbers
    return buckets, [last, *reversed(backwards)]
