"""The sum of a tensor's bits: the same wherever it lies, another one when any bit changes."""

from __future__ import annotations

import pytest
import torch
from dougong.ops.bit_sum import WRAP, bit_sums, sums_of_shares, total

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 1000, 70001])
def test_every_bit_counts(dtype: torch.dtype, length: int) -> None:
    tensor = (torch.arange(length) % 5).to(dtype)
    (before,) = bit_sums([tensor]).tolist()
    data = tensor.view(torch.uint8)
    for place in {0, len(data) // 2, len(data) - 1}:
        for bit in (0, 7):
            data[place] ^= 1 << bit
            assert bit_sums([tensor]).tolist() != [before]
            data[place] ^= 1 << bit
    assert bit_sums([tensor]).tolist() == [before]


@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_place_nor_company_counts(dtype: torch.dtype) -> None:
    tensors = [(torch.arange(n) % 5).to(dtype) for n in (0, 1, 9, 70001, 12)]
    alone = [bit_sums([tensor]).item() for tensor in tensors]
    assert bit_sums(tensors).tolist() == alone
    room = torch.zeros(70002, dtype=dtype)
    room[1:].copy_(tensors[3])
    assert bit_sums([room[1:]]).item() == alone[3]
    assert total(bit_sums(tensors)) == sum(alone) % WRAP
    assert total(bit_sums([])) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("num_shares", [1, 3, 20])
def test_shares_are_summed_by_themselves(num_shares: int, width: int) -> None:
    sizes = [number % 4 for number in range(num_shares)]
    values = torch.randn(sum(sizes), width)
    expected = [bit_sums([share]).item() for share in values.split(sizes)]
    assert sums_of_shares(values, sizes).tolist() == expected
