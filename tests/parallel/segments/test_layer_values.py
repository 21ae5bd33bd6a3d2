"""What a layer was given comes again as it was, without its graph; a changed bit is seen, also among NaN."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from dougong.errors import ModelError
from dougong.parallel.segments.layer_values import LayerArguments, bits_differ, tensors_in
from torch import Tensor

Pair = namedtuple("Pair", ["first", "second"])


def test_arguments_come_again_in_every_container_with_their_flags_and_without_their_graph() -> None:
    with_graph, whole = torch.ones(2, requires_grad=True).exp(), torch.arange(3)
    rest = [1, "word", None]
    given = LayerArguments.of(
        (with_graph, [whole, Pair(with_graph, 2)]), {"more": OrderedDict(a=with_graph), "rest": rest, "by": slice(3)}
    )
    for _ in range(2):
        (first, (second, pair)), named = given.again()
        assert torch.equal(first, with_graph) and first.requires_grad and first.grad_fn is None
        assert torch.equal(second, whole) and not second.requires_grad
        assert isinstance(pair, Pair) and pair.second == 2 and pair.first.grad_fn is None
        assert isinstance(named["more"], OrderedDict) and named["more"]["a"].is_leaf
        assert named["rest"] == rest and named["rest"] is not rest and named["by"] == slice(3)
        named["rest"].append("what a layer puts in does not come twice")


def test_what_was_changed_in_place_is_refused_wherever_it_lies() -> None:
    hidden, other = torch.ones(2, 3), torch.zeros(4)
    given = LayerArguments.of((hidden,), {"deep": {"er": [other]}})
    given.refuse_change("a")
    other.add_(1)
    with pytest.raises(ModelError, match=r"an input of a, of shape \[4\], is changed in place.*set recompute: none"):
        given.refuse_change("a")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_equal_bits_do_not_differ_and_one_other_value_does(dtype: torch.dtype) -> None:
    one = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    assert not bits_differ(one, one.clone()) and not bits_differ(one.t(), one.clone().t())
    other = one.clone()
    other[1, 2] = 0
    assert bits_differ(one, other) and bits_differ(one, one[:1]) and bits_differ(one, one.to(torch.float16))


def test_it_is_bits_that_are_compared() -> None:
    nan = torch.tensor([float("nan")])
    assert not bits_differ(nan, nan.clone()) and bits_differ(torch.tensor([0.0]), torch.tensor([-0.0]))


def test_tensors_are_found_in_their_order() -> None:
    a, b, c = (torch.full((1,), n) for n in (1, 2, 3))
    found = list(tensors_in((a, {"x": [b, None], "y": 5}, c)))
    assert all(isinstance(t, Tensor) for t in found) and [int(t) for t in found] == [1, 2, 3]
