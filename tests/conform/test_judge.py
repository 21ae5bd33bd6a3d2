"""How far a result may be from the exact one."""

from __future__ import annotations

import pytest
import torch
from dougong.conform.judge import EPSILON, Exactness, deviance, same_bits, tolerance_of

NAN, INF = torch.nan, torch.inf


def test_errors_are_parts_of_the_values_size() -> None:
    exact = torch.tensor([1000.0, 1.0], dtype=torch.float64)
    found = torch.tensor([1000.0, 1.1])
    assert deviance(found, exact, Exactness.SUMMED).error == pytest.approx(1e-4, rel=1e-3)
    # By itself the small value is judged as if it were 1/64 of the largest.
    assert deviance(found, exact, Exactness.EACH).error == pytest.approx(0.1 / (1000 / 64), rel=1e-3)


@pytest.mark.parametrize(
    ("found", "exact", "words"),
    [
        ([1.0, NAN], [1.0, 2.0], "1 of 2 values are NaN, not 0"),
        ([1.0, 2.0], [1.0, NAN], "0 of 2 values are NaN, not 1"),
        ([1.0, 2.0], [1.0, INF], "infinite values that are other than the exact ones"),
        ([1.0, -INF], [1.0, INF], "infinite values that are other than the exact ones"),
        ([1.0], [1.0, 2.0], "shape (1,), not (2,)"),
    ],
)
def test_what_cannot_be_compared_says_why(found: list[float], exact: list[float], words: str) -> None:
    wide = torch.tensor(exact, dtype=torch.float64)
    assert deviance(torch.tensor(found), wide, Exactness.SUMMED).misfit == words


def test_nan_and_infinite_values_in_their_places_are_right() -> None:
    values = torch.tensor([NAN, INF, -INF, 3.0])
    assert deviance(values, values.double(), Exactness.EACH).error == 0


def test_moved_values_are_met_bit_by_bit() -> None:
    one = torch.tensor([1.0, 2.0])
    assert deviance(one, one.clone(), Exactness.MOVED).misfit == ""
    assert deviance(one, torch.nextafter(one, one + 1), Exactness.MOVED).misfit == "2 of 2 values are other ones"
    assert deviance(one, one.double(), Exactness.MOVED).misfit == "torch.float32, not torch.float64"
    assert deviance(torch.tensor([1, 2]), torch.tensor([1, 3]), Exactness.EACH).misfit


def test_bits_tell_zeros_and_numbers_that_are_none_apart() -> None:
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([NAN]), torch.tensor([NAN]))
    assert same_bits(torch.empty(0, 3), torch.empty(0, 3)) and not same_bits(torch.empty(0, 3), torch.empty(3, 0))
    assert same_bits(torch.tensor([True, False]), torch.tensor([True, False]))


def test_tf32_lies_between_float32_and_bfloat16() -> None:
    single, half = (tolerance_of(Exactness.PRODUCT, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert single < tolerance_of(Exactness.PRODUCT, torch.float32, tf32=True) < half
    assert tolerance_of(Exactness.MOVED, torch.bfloat16) == tolerance_of(Exactness.EACH, torch.int64) == 0
    assert tolerance_of(Exactness.EACH, torch.bfloat16) == 2 * EPSILON[torch.bfloat16]
