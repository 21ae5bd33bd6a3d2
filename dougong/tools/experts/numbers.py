"""What the bytes of an expert's tensor are as numbers, in all formats in which weights and their
scales are stored. Imports no torch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.tensorfile import num_not_finite

_SCALE = re.compile(r"(^|[._])(scales?|scale_inv|qscale_weight)$")
_BLOCKS = re.compile(r"_blocks$")
_BYTES = "U8"
_EXPONENT_OF_NAN = 0xFF
"""Of a power of two in a byte (E8M0; OCP Microscaling Formats 1.0, section 5.4.1)."""
_EIGHT_BITS = {"F8_E4M3": (0x7F, 0x7F), "F8_E5M2": (0x7C, 0x7C), "F8_E8M0": (0xFF, 0xFF)}
"""(mask, what is not finite under it): E4M3 has no infinity and one NaN of each sign."""
_MAGNITUDE = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_TWO_IN_A_BYTE = 0x77
"""The bits of two FP4 values without their signs."""


def is_a_scale(part: str) -> bool:
    """Whether a tensor of an expert, by its name, is what others are multiplied by."""
    return _SCALE.search(part) is not None


def num_bad(data: bytearray, dtype: str, part: str) -> int:
    """How many values are not finite."""
    if dtype == _BYTES and is_a_scale(part):
        return data.count(_EXPONENT_OF_NAN)
    if dtype in _EIGHT_BITS:
        mask, bad = _EIGHT_BITS[dtype]
        values = np.frombuffer(data, np.uint8)
        return int(np.count_nonzero((values & np.uint8(mask)) >= bad))
    return num_not_finite(data, dtype)


def is_zero(data: bytearray, dtype: str, part: str) -> bool:
    """Whether every value is zero, of either sign."""
    return not bool(_magnitudes(data, dtype, part).any())


def _magnitudes(data: bytearray, dtype: str, part: str) -> NDArray[Any]:
    """The bits without those of the sign."""
    if dtype in _MAGNITUDE:
        wide = np.frombuffer(data, _MAGNITUDE[dtype])
        without: NDArray[Any] = wide << wide.dtype.type(1)
        return without
    values = np.frombuffer(data, np.uint8)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return values & np.uint8(0x7F)
    is_packed = dtype == _BYTES and _BLOCKS.search(part) is not None
    return values & np.uint8(_TWO_IN_A_BYTE) if is_packed else values
