"""What a comparison says."""

from __future__ import annotations

from dougong.tools.difference import Comparison, Difference, natural_order


def test_a_number_a_tensor_and_a_damaged_tensor() -> None:
    assert str(Difference(3, "loss", note="1.0 and 2.0")) == "step 3: loss: 1.0 and 2.0"
    tensor = Difference(3, "w", 2, 8, 0.5)
    assert str(tensor) == "step 3: w: 2 of 8 elements differ, by at most 0.5"
    assert str(Difference(3, "w", 2, 8, None, "damaged")) == "step 3: w: 2 of 8 elements differ (damaged)"


def test_the_verdict_comes_first_and_what_is_left_out_is_counted() -> None:
    assert Comparison("2 tensors", ()).lines(3) == ["equal, bit by bit: 2 tensors"]
    found = Comparison("2 tensors", tuple(Difference(1, name, note="x") for name in "abc"))
    assert not found.equal and found.first == Difference(1, "a", note="x")
    assert found.lines(2) == ["different: 2 tensors; first:", "  step 1: a: x", "  step 1: b: x", "  and 1 more"]
    assert found.lines(3)[-1] == "  step 1: c: x"


def test_layer_2_comes_before_layer_10() -> None:
    names = ["layers.10.b", "layers.2.b", "layers.2.a", "embed"]
    assert sorted(names, key=natural_order) == ["embed", "layers.2.a", "layers.2.b", "layers.10.b"]
