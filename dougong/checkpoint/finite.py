"""Values on storage that are not finite: NaN or infinite. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dougong.checkpoint.disk import Buffer
from dougong.checkpoint.tensorfile import ITEM_BYTES

_EXPONENTS = {
    "F64": 0x7FF0_0000_0000_0000,
    "F32": 0x7F80_0000,
    "F16": 0x7C00,
    "BF16": 0x7F80,
}
"""The bits of the exponent, by safetensors' word. All of them set: NaN or infinite (IEEE 754; a
bfloat16 is the upper half of a float32)."""
_CHUNK_BYTES = 1 << 20
"""What is looked at at once: it stays in the cache."""


def num_not_finite(data: Buffer, dtype: str) -> int:
    """How many values of a tensor's bytes are not finite. Whole numbers are, and so is what is
    stored in a format that no state is kept in. `dtype`: safetensors' word."""
    exponent = _EXPONENTS.get(dtype)
    if exponent is None:
        return 0
    kind = np.dtype(f"<u{ITEM_BYTES[dtype]}")
    mask = kind.type(exponent)
    bits = np.frombuffer(data, kind)
    count = 0
    for first in range(0, len(bits), _CHUNK_BYTES // kind.itemsize):
        piece = bits[first : first + _CHUNK_BYTES // kind.itemsize]
        count += int(np.count_nonzero((piece & mask) == mask))
    return count


@dataclass
class FiniteCount:
    """Counts while a tensor is read piece by piece; a piece holds whole values."""

    dtype: str
    num_not_finite: int = 0

    def see(self, piece: Buffer) -> None:
        """Look at the next piece."""
        self.num_not_finite += num_not_finite(piece, self.dtype)


def words(count: int) -> str:
    """What is said of a tensor with so many such values."""
    values = "1 value that is" if count == 1 else f"{count} values that are"
    return f"{values} not finite (NaN or infinite)"
