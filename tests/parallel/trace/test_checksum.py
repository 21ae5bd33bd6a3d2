"""The checksum sees every change of bits and of places, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dougong.parallel.trace.checksum import ROWS_AT_ONCE, WIDTH, Fold, checksum, checksums, factors, sums_near
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool]


def random_bytes(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)).clone(
        memory_format=torch.contiguous_format
    )


def as_dtype(data: Tensor, dtype: torch.dtype) -> Tensor:
    return data.bool() if dtype == torch.bool else data.view(dtype)


@given(st.integers(1, 5000), st.data())
@settings(max_examples=200, deadline=None)
def test_one_flipped_bit_is_seen(count: int, data: st.DataObject) -> None:
    before = random_bytes(count)
    byte, bit = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, 7))
    after = before.clone()
    after[byte] ^= 1 << bit
    assert checksum(before) != checksum(after)


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0]), min_size=2, max_size=300), st.data())
@settings(max_examples=300, deadline=None)
def test_swapped_elements_are_seen(values: list[float], data: st.DataObject) -> None:
    """Few and signed values: swaps that change one bit of a word, and the same one twice."""
    i, j = (data.draw(st.integers(0, len(values) - 1)) for _ in range(2))
    before = torch.tensor(values)
    after = before.clone()
    after[[i, j]] = after[[j, i]]
    same = torch.equal(before.view(torch.int32), after.view(torch.int32))
    assert (checksum(before) == checksum(after)) == same


@given(st.integers(2, 40), st.integers(1, 700), st.data())
@settings(max_examples=200, deadline=None)
def test_swapped_rows_are_seen(rows: int, width: int, data: st.DataObject) -> None:
    """Also of a matrix whose rows have all the same sum."""
    i, j = (data.draw(st.integers(0, rows - 1)) for _ in range(2))
    for before in (torch.eye(rows, width + rows), random_bytes(rows * width * 4).view(torch.int32).view(rows, width)):
        after = before.clone()
        after[[i, j]] = after[[j, i]]
        assert (checksum(before) == checksum(after)) == torch.equal(before, after)


def test_rows_of_the_fold_s_width_are_seen() -> None:
    before = torch.eye(8, WIDTH)
    assert checksum(before) != checksum(before[[1, 0, 2, 3, 4, 5, 6, 7]])


def test_no_two_factors_can_hide_a_swap() -> None:
    """Two words differ by less than 2**32: a swap is hidden only by factors that are equal modulo 2**33."""
    values = factors(torch.device("cpu"))
    assert len(set((values % (1 << 33)).tolist())) == WIDTH and bool((values % 2 == 1).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 16, 48, 4096, 40_000, 6_000_016])
def test_it_is_of_the_bits_alone(dtype: torch.dtype, size: int) -> None:
    tensor = as_dtype(random_bytes(size), dtype)
    value = checksum(tensor)
    assert 0 <= value < 1 << 64
    assert checksum(tensor.clone()) == value
    if size:
        padded = torch.cat([tensor.new_zeros(3), tensor])[3:]  # not where a word begins
        assert checksum(padded) == value
        assert checksum(tensor.view(2, -1)) == checksum(tensor.view(-1, 2)) == value
        assert checksum(tensor.view(2, -1).t()) == checksum(tensor.view(2, -1).t().contiguous())
    if dtype != torch.bool:
        assert checksum(tensor.view(torch.uint8)) == value


def test_zeros_of_two_lengths_differ() -> None:
    assert len({checksum(torch.zeros(n)) for n in range(200)}) == 200


def test_one_number_and_a_parameter() -> None:
    assert checksum(torch.tensor(1.0)) == checksum(torch.nn.Parameter(torch.ones(1)))
    assert checksum(torch.ones(1).expand(1)[:0]) == checksum(torch.empty(0))
    assert checksum(torch.tensor(1.0).expand(1)) == checksum(torch.ones(1))


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    tensors = [random_bytes(count, seed=count) for count in range(600)]
    assert checksums(tensors) == [checksum(t) for t in tensors]
    assert checksums([]) == []


def test_what_it_is_does_not_change() -> None:
    """Ledgers of two versions are compared with each other."""
    assert checksum(torch.arange(10_000, dtype=torch.int32)) == GOLDEN


GOLDEN = 18364907730373317355


def test_numpys_sums_are_those_of_the_form_for_any_device() -> None:
    """Short, whole and many rows; the largest and the smallest words, whose products wrap around."""
    lengths = [0, 1, WIDTH - 1, WIDTH, WIDTH + 1, 3 * WIDTH, (ROWS_AT_ONCE + 1) * WIDTH + 5]
    words = [random_bytes(4 * length, seed).view(torch.int32) for seed, length in enumerate(lengths)]
    words += [torch.full((2 * WIDTH,), torch.iinfo(torch.int32).min), torch.full((WIDTH,), -1, dtype=torch.int32)]
    words = [of_one.to(torch.int32) for of_one in words]
    assert torch.equal(sums_near([of_one.numpy() for of_one in words]), Fold(words).sums())
