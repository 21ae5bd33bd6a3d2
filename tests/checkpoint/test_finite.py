"""Bytes on storage: every NaN and infinity is counted, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dougong.checkpoint.finite import FiniteCount, num_not_finite, words

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def data_of(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", TORCH)
def test_it_counts_what_torch_counts(dtype: str) -> None:
    """Over all bit patterns of 16 bits; of wider formats, random ones and the borders."""
    if dtype in ("F16", "BF16"):
        values = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(TORCH[dtype])
    else:
        limits = torch.finfo(TORCH[dtype])
        inf = float("inf")
        borders = [limits.max, -limits.max, limits.tiny, 0.0, -0.0, inf, -inf, float("nan"), -float("nan")]
        values = torch.tensor(borders, dtype=TORCH[dtype])
    expected = int((~torch.isfinite(values)).sum())
    assert expected and num_not_finite(data_of(values), dtype) == expected


def test_whole_numbers_have_no_such_values() -> None:
    assert num_not_finite(b"\xff" * 16, "I64") == 0 and num_not_finite(b"\xff" * 16, "F8_E4M3") == 0


def test_pieces_add_up() -> None:
    values = torch.zeros(1 << 19)
    values[::1000] = float("nan")
    data, count = data_of(values), FiniteCount("F32")
    for first in range(0, len(data), 1 << 16):
        count.see(data[first : first + (1 << 16)])
    assert count.num_not_finite == num_not_finite(data, "F32") == 525


def test_the_words_agree_with_the_number() -> None:
    assert words(1) == "1 value that is not finite (NaN or infinite)"
    assert words(2) == "2 values that are not finite (NaN or infinite)"
