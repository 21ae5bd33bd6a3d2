"""transformers' own dequantisers of weights, one tensor or some of its blocks at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def fp8_values(values: Tensor, scales: Tensor) -> Tensor:
    """FP8 values [..., rows, columns], or pairs of FP4 ones packed in bytes, in float32.

    `scales` [..., blocks of rows, blocks of columns] (or [1]): each counts for a whole block; of
    uint8 they are the exponents of powers of two. Sizes must be whole numbers of blocks.
    """
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    # The dequantiser rounds to the scales' dtype where it has no parameter to fill. Of uint8, a
    # power of two, it gives bfloat16, which holds four bits times a power of two exactly.
    known = scales if scales.dtype == torch.uint8 else scales.float()
    out = Fp8Dequantize(None).convert({"weight": [values], "weight_scale_inv": [known]})
    found = out["weight"]
    assert isinstance(found, Tensor)
    return found.float()


def mxfp4_values(blocks: Tensor, scales: Tensor) -> Tensor:
    """MXFP4 blocks [E, rows, groups, 16] of uint8 with scales [E, rows, groups], in float32
    [E, 32 groups, rows]."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    found = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert isinstance(found, Tensor)
    return found
