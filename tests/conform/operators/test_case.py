"""What is computed of a case."""

from __future__ import annotations

import torch
from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, Draw, cotangent, given, results


def test_inputs_are_the_same_each_time() -> None:
    first, again = (Draw().values(3, 4) for _ in range(2))
    assert torch.equal(first, again) and first.dtype == torch.float64
    assert sorted(Draw().order(9).tolist()) == list(range(9))


def test_floats_have_the_precision_and_numbers_stay() -> None:
    case = Case("x", "aten::x", torch.add, lambda d: (d.values(2), d.ids(2, below=3)), Exactness.EACH)
    assert [tensor.dtype for tensor in given(case, torch.bfloat16)] == [torch.bfloat16, torch.int64]


def test_outputs_come_before_gradients_and_what_is_not_reached_has_zeros() -> None:
    case = Case("x", "aten::mul", lambda x, y: x * 3, lambda d: (d.values(4), d.values(4)), Exactness.EACH, (0, 1))
    x, y = given(case, torch.float32)
    output, dx, dy = results(case, (x, y))
    assert torch.equal(output, x * 3) and torch.equal(dx, 3 * cotangent(output)) and not dy.any()


def test_a_row_s_cotangent_depends_on_its_number_alone() -> None:
    few, many = cotangent(torch.zeros(3, 5)), cotangent(torch.zeros(9, 5))
    assert torch.equal(many[:3], few) and few.abs().max() > 0
    assert torch.equal(few.bfloat16().float(), few), "exact in every precision"
