"""Which dense tensors come and go together."""

from __future__ import annotations

from dougong.parallel.units import DenseUnits, Unit

UNITS = DenseUnits(
    (Unit("embed", ("e",)), Unit("layers.0", ("a", "b")), Unit("layers.1", ("c",)), Unit("head", ("h",))),
    ("tied",),
    ((0, 1), (1, 2), (2, 3)),
)


def test_what_the_last_segment_touches_stays_between_its_forward_and_its_backward() -> None:
    assert UNITS.kept_from == 2


def test_what_lasts_is_a_group_of_its_own_and_the_first() -> None:
    assert list(UNITS.groups()) == [("tied",), ("e",), ("a", "b"), ("c",), ("h",)]
