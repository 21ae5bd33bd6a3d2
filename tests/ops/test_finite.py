"""NaN and infinities are counted, whatever the dtype; whole numbers are finite."""

from __future__ import annotations

import pytest
import torch
from dougong.ops.finite import first_not_finite, num_not_finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_each_tensor_is_counted_by_itself(dtype: torch.dtype) -> None:
    tensors = [torch.tensor(v, dtype=dtype) for v in ([1.0, NAN, INF, -INF], [0.0, -2.0], [[NAN]])]
    tensors.append(torch.empty(0, 3, dtype=dtype))
    assert num_not_finite(tensors) == [3, 0, 1, 0]


def test_whole_numbers_are_finite() -> None:
    assert num_not_finite([torch.tensor([1, 2]), torch.tensor([True])]) == [0, 0]
    assert num_not_finite([]) == []


def test_the_first_place_is_named() -> None:
    tensor = torch.zeros(2, 3)
    assert first_not_finite(tensor) is None
    tensor[1, 0] = tensor[1, 2] = NAN
    assert first_not_finite(tensor) == (1, 0)
