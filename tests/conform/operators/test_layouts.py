"""What a row's bits depend on, and what of that is a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, given, placed, results
from dougong.conform.operators.layouts import MovedBy, is_fault, moves_with
from torch import Tensor

CPU = torch.device("cpu")


def case_of(compute: Callable[..., Any], by_row: bool = False) -> Case:
    return Case("x", "aten::mul", compute, lambda d: (d.values(8, 32),), Exactness.EACH, rows=(0,), by_row=by_row)


def found(compute: Callable[..., Any]) -> list[MovedBy]:
    case = case_of(compute)
    expected = results(case, placed(given(case, torch.float32), CPU))
    return list(moves_with(case, torch.float32, CPU, expected))


def by_alignment(x: Tensor) -> Tensor:
    return x * (2.0 if x.data_ptr() % 512 in (128, 256) else 3.0)


@pytest.mark.parametrize(
    ("compute", "moved"),
    [
        (lambda x: x * 3, []),
        (lambda x: x * 3 + x[-1:], [MovedBy.NEIGHBOURS, MovedBy.NUMBER]),
        (lambda x: x * len(x), [MovedBy.NUMBER]),
        (by_alignment, [MovedBy.ALIGNMENT]),
    ],
)
def test_what_moves_a_row(compute: Callable[..., Any], moved: list[MovedBy]) -> None:
    assert found(compute) == moved


@pytest.mark.parametrize(
    ("what", "by_row", "fault"),
    [
        (MovedBy.NEIGHBOURS, False, True),
        (MovedBy.PLACE, False, True),
        (MovedBy.ALIGNMENT, True, False),
        (MovedBy.NUMBER, False, False),
        (MovedBy.NUMBER, True, True),
    ],
)
def test_what_is_a_fault(what: MovedBy, by_row: bool, fault: bool) -> None:
    assert is_fault(case_of(torch.neg, by_row), what) == fault
