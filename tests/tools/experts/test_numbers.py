"""What bytes are as numbers."""

from __future__ import annotations

import pytest
import torch
from dougong.tools.experts.numbers import is_a_scale, is_zero, num_bad

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


def data_of(tensor: torch.Tensor) -> bytearray:
    return bytearray(tensor.contiguous().view(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_every_byte_is_what_torch_says(dtype: str) -> None:
    every = torch.arange(256).to(torch.uint8)
    values = every.view(DTYPES[dtype]).float()
    assert num_bad(data_of(every), dtype, "up_proj.weight") == int((~values.isfinite()).sum())


def test_a_scale_in_bytes_has_one_that_is_no_number() -> None:
    data = bytearray([127, 255, 0, 255])
    assert num_bad(data, "U8", "down_proj_scales") == num_bad(data, "U8", "w2.scale") == 2
    assert num_bad(data, "U8", "down_proj_blocks") == 0
    assert is_a_scale("up_proj.weight_scale_inv") and not is_a_scale("up_proj.weight")


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_zero_has_two_signs(dtype: str) -> None:
    zeros = torch.tensor([0.0, -0.0]).to(DTYPES[dtype])
    assert is_zero(data_of(zeros), dtype, "up_proj.weight")
    least = torch.tensor([0.0, -1.0]).to(DTYPES[dtype])
    assert not is_zero(data_of(least), dtype, "up_proj.weight")


def test_fp4_values_lie_in_pairs() -> None:
    assert is_zero(bytearray([0x00, 0x80, 0x08, 0x88]), "U8", "down_proj_blocks")
    assert not is_zero(bytearray([0x10]), "U8", "down_proj_blocks")
    assert not is_zero(bytearray([0x88]), "U8", "other")
