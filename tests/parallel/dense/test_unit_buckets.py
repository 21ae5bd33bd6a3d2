"""Buckets of tensors that come and go together."""

from __future__ import annotations

from dougong.parallel.dense.buckets import TensorForm
from dougong.parallel.dense.unit_buckets import unit_buckets
from dougong.parallel.units import DenseUnits, Unit

UNITS = DenseUnits(
    (Unit("embed", ("e",)), Unit("layers.0", ("a", "b", "c")), Unit("head", ("h",))), ("tied",), ((0, 1), (1, 2))
)
SHAPES = {"tied": (5,), "e": (40, 3), "a": (4, 4), "b": (7,), "c": (2, 2), "h": (9,)}
FORMS = {n: TensorForm("torch.float32" if n == "b" else "torch.bfloat16", s) for n, s in SHAPES.items()}


def test_no_bucket_has_tensors_of_two_units_and_they_come_in_the_order_of_the_backward() -> None:
    buckets, groups = unit_buckets(UNITS, FORMS, dict.fromkeys(SHAPES, 0))
    assert [set(bucket.shapes) for bucket in buckets] == [{"h"}, {"a", "c"}, {"b"}, {"e"}, {"tied"}]
    assert [list(numbers) for numbers in groups] == [[4], [3], [1, 2], [0]]


def test_a_group_without_tensors_has_no_bucket() -> None:
    units = DenseUnits(UNITS.units, (), UNITS.by_segment)
    buckets, groups = unit_buckets(units, FORMS, dict.fromkeys(SHAPES, 0))
    assert list(groups[0]) == [] and len(buckets) == 4
