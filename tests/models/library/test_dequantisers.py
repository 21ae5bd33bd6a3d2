"""transformers' dequantisers, beside their formulas. Folders are in tests/models/stored."""

from __future__ import annotations

import torch
from dougong.models.library.dequantisers import fp8_values, mxfp4_values
from tests.quantised_folders import by_hand, fp8_pair


def test_fp8_is_values_times_scales_in_float32_whatever_the_scales_are() -> None:
    torch.manual_seed(0)
    values, scales = fp8_pair(torch.randn(2, 32, 48))
    for known in (scales, scales.bfloat16()):
        found = fp8_values(values, known)
        assert found.dtype == torch.float32 and torch.equal(found, by_hand(values, known.float(), (16, 24)))


def test_mxfp4_is_a_value_times_a_power_of_two_transposed() -> None:
    blocks = torch.full((1, 2, 1, 16), 0x72, dtype=torch.uint8)  # 1.0 in the low half of a byte, 6.0 in the high one
    found = mxfp4_values(blocks, torch.tensor([[[127], [128]]], dtype=torch.uint8))
    assert found.shape == (1, 32, 2) and found[0, :2].tolist() == [[1.0, 2.0], [6.0, 12.0]]
