"""The mixing function of splitmix64 (Steele, Lea and Flood 2014), for numpy and for torch.

It is a bijection of 64-bit words, and each bit of its output depends on every bit of its input. The
generator splitmix64 itself is this function of a counter: output number n from seed 0 is
`mix(n * STEP)`. Only shifts, exclusive or and wrap-around products are used, so every machine gives
the same bits. Loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Words = npt.NDArray[np.uint64]

STEP = 0x9E3779B97F4A7C15
"""What the generator's counter advances by: the golden ratio's fraction, as an odd number."""
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def mix(words: Words) -> Words:
    """Each word mixed by itself; uint64, any shape but that of a single number."""
    words = (words ^ (words >> np.uint64(_SHIFTS[0]))) * np.uint64(_FACTORS[0])
    words = (words ^ (words >> np.uint64(_SHIFTS[1]))) * np.uint64(_FACTORS[1])
    return words ^ (words >> np.uint64(_SHIFTS[2]))


def mix_signed(words: Tensor) -> Tensor:
    """The same bits on int64 tensors, where they lie: torch has no products of uint64."""
    words = (words ^ _shift_right(words, _SHIFTS[0])) * as_signed(_FACTORS[0])
    words = (words ^ _shift_right(words, _SHIFTS[1])) * as_signed(_FACTORS[1])
    return words ^ _shift_right(words, _SHIFTS[2])


def as_signed(word: int) -> int:
    """The signed number, -2**63 .. 2**63 - 1, that has the bits of `word` (0 .. 2**64 - 1)."""
    return word - (1 << 64) if word >= 1 << 63 else word


def _shift_right(words: Tensor, bits: int) -> Tensor:
    # torch repeats the sign when it shifts int64; the mask puts zeros there, as uint64 would.
    return (words >> bits) & ((1 << (64 - bits)) - 1)
