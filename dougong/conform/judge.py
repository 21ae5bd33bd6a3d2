"""How far a result may be from the exact one: tolerances by kind of operator and precision.

The exact one is computed on the processor in float64 from the very values that the device was
given, so that an error is the device's alone. Errors are told as a part of the values' size.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

EPSILON = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""The distance from 1 to the next value: a correctly rounded result is off by half of it."""
TF32 = 2.0**-10
"""The same of a product whose inputs are cut or rounded to TF32's ten bits."""


class Exactness(Enum):
    """What may be asked of an operator's values."""

    MOVED = "moved"
    """Nothing is computed, or nothing is rounded twice: the processor's own bits."""
    EACH = "each"
    """Each value is computed by itself: its own size counts."""
    SUMMED = "summed"
    """Values are sums in float32 or better: the size of the largest counts."""
    PRODUCT = "product"
    """The same, of products, which some devices round to TF32."""


FACTORS = {
    Exactness.MOVED: (0.0, 0.0),
    Exactness.EACH: (16.0, 2.0),
    Exactness.SUMMED: (32.0, 3.0),
    Exactness.PRODUCT: (64.0, 3.0),
}
"""Tolerances in units of `EPSILON`: (of float32, of half precision). A vendor's exponential may be
off by some units; half precision is rounded once, after sums that were kept in float32."""
TF32_FACTOR = 1.5
"""Cut inputs give up to 0.8 of it, rounded ones half as much, and inputs in bfloat16 twice as
much."""
NEAR_ZERO = 2.0**-6
"""Values smaller than this part of the largest are judged as if they were that large: what is
left where two terms cancel has no precision of its own."""


@dataclass(frozen=True)
class Deviance:
    """How far two tensors are apart. `misfit`: why they cannot be compared, empty where they
    can."""

    error: float = 0.0
    misfit: str = ""


def tolerance_of(exactness: Exactness, dtype: torch.dtype, tf32: bool = False) -> float:
    """The largest error that is allowed, as a part of the values' size."""
    single, half = FACTORS[exactness]
    if tf32:
        return TF32_FACTOR * TF32
    if dtype not in EPSILON:
        return 0.0
    return (single if dtype == torch.float32 else half) * EPSILON[dtype]


def deviance(found: Tensor, exact: Tensor, exactness: Exactness) -> Deviance:
    """How far a device's result [any shape] is from the exact one, both on the processor."""
    if found.shape != exact.shape:
        return Deviance(misfit=f"shape {tuple(found.shape)}, not {tuple(exact.shape)}")
    if found.numel() == 0:
        return Deviance()
    if not exact.is_floating_point() or exactness is Exactness.MOVED:
        return _of_moved(found, exact)
    wide, right = found.double(), exact.double()
    misfit = _misfit(wide, right)
    return Deviance(misfit=misfit) if misfit else Deviance(_error(wide, right, exactness))


def _misfit(wide: Tensor, right: Tensor) -> str:
    """Why no size can be told of what is apart; empty where it can."""
    if not torch.equal(wide.isnan(), right.isnan()):
        return _places("NaN", wide.isnan(), right.isnan())
    if not torch.equal(_infinite(wide), _infinite(right)):
        return "infinite values that are other than the exact ones"
    return ""


def _error(wide: Tensor, right: Tensor, exactness: Exactness) -> float:
    finite = right.isfinite()
    apart = (wide - right).masked_fill(~finite, 0).abs()
    sizes = right.masked_fill(~finite, 0).abs()
    largest = max(float(sizes.max()), torch.finfo(torch.float32).tiny)
    if exactness is Exactness.EACH:
        return float((apart / sizes.clamp_min(largest * NEAR_ZERO)).max())
    return float(apart.max()) / largest


def _infinite(values: Tensor) -> Tensor:
    """The infinite ones of them; zeros elsewhere."""
    return torch.where(values.isinf(), values, 0.0)


def _of_moved(found: Tensor, exact: Tensor) -> Deviance:
    if found.dtype != exact.dtype:
        return Deviance(misfit=f"{found.dtype}, not {exact.dtype}")
    if same_bits(found, exact):
        return Deviance()
    different = (found != exact) & ~(found.isnan() & exact.isnan())
    return Deviance(misfit=f"{int(different.sum())} of {found.numel()} values are other ones")


def _places(what: str, found: Tensor, exact: Tensor) -> str:
    return f"{int(found.sum())} of {found.numel()} values are {what}, not {int(exact.sum())}"


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of the processor hold the same bits; NaN equals NaN of the same bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.numel() == 0:
        return True
    left, right = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(left, right)
