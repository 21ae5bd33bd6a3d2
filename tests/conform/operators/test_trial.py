"""A case is judged by values, repetitions and forms of memory; each kind of fault has its words."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed, Result
from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, Draw
from dougong.conform.operators.trial import run_case
from torch import Tensor

BED = Bed(Cpu(), CPU, Path())
COUNT = itertools.count(1)


def pair(draw: Draw) -> tuple[Tensor, ...]:
    return draw.values(12, 6), draw.values(12, 6)


def judged(compute: Callable[..., Any], exactness: Exactness = Exactness.EACH, **more: Any) -> Result:
    dtypes = (torch.float32,)
    return run_case(Case("x", "aten::add", compute, pair, exactness, rows=(0, 1), dtypes=dtypes, **more), BED)


def off_by_little(x: Tensor, y: Tensor) -> Tensor:
    return (x + y) * (1.0 if x.dtype == torch.float64 else 1.001)


def moving(x: Tensor, y: Tensor) -> Tensor:
    return x + y if x.dtype == torch.float64 else (x + y) * (1 + next(COUNT) * 2.0**-23)


def by_neighbours(x: Tensor, y: Tensor) -> Tensor:
    return x + y if x.dtype == torch.float64 else x + y + x[-1:] * 1e-7


def by_number(x: Tensor, y: Tensor) -> Tensor:
    return x + y if x.dtype == torch.float64 or len(x) == 12 else (x + y) * (1 + 2.0**-22)


def by_strides(x: Tensor, y: Tensor) -> Tensor:
    return x + y if x.is_contiguous() else x - y


def by_rows(x: Tensor, y: Tensor) -> Tensor:
    return x + y if len(x) or x.dtype == torch.float64 else torch.zeros(1, 6)


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (off_by_little, "float32 forward: error 1.0e-03 of the values' size, at most 1.9e-06 is allowed"),
        (moving, "float32: other bits when it is computed again"),
        (by_neighbours, "float32: a row's bits depend on the values of other rows"),
        (by_strides, "(of values that lie apart in memory)"),
        (by_rows, "float32 forward: shape (1, 6), not (0, 6) (without rows)"),
    ],
)
def test_faults(compute: Callable[..., Any], words: str) -> None:
    assert any(words in text for text in judged(compute).words)


def test_a_sound_operator_has_no_words() -> None:
    found = judged(torch.add, trained=(0, 1))
    assert found.words == () and found.operator is not None
    assert (found.operator.form, found.operator.deterministic, found.operator.moves_with) == ("native", True, ())
    assert [one.direction for one in found.operator.deviations] == ["forward", "backward"]


def test_the_number_of_rows_is_a_fault_of_what_a_wave_is_computed_by() -> None:
    told, fault = judged(by_number), judged(by_number, by_row=True)
    assert told.words == () and fault.words == ("float32: a row's bits depend on the number of rows",)
    assert told.operator is not None and told.operator.moves_with == ("the number of rows",)


def test_no_kernel_is_missing() -> None:
    def lacks(x: Tensor, y: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return x + y
        raise NotImplementedError("no kernel of add")

    found = judged(lacks)
    assert found.words == ("there is no kernel of it: NotImplementedError: no kernel of add",)
    assert found.operator is not None and found.operator.form == "missing"


def test_a_fused_form_has_a_speed_and_the_composed_one_is_judged_too() -> None:
    found = judged(torch.add, composed=off_by_little)
    assert found.words == () and found.remarks[0].startswith("the composed form: float32 forward: error 1.0e-03")
    assert found.operator is not None and found.operator.speed is not None and found.operator.speed.times > 0


def test_products_of_ten_bits_are_told_and_sound() -> None:
    def cut(x: Tensor, y: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return x @ y.t()
        return ((x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)) @ y.t()

    found = run_case(Case("x", "aten::mm", cut, pair, Exactness.PRODUCT, dtypes=(torch.float32,)), BED)
    assert found.words == () and "TF32" in found.remarks[0]
    assert found.operator is not None and found.operator.deviations[0].tf32
