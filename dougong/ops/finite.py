"""How many values of a tensor are not finite: NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def num_not_finite(tensors: Sequence[Tensor]) -> list[int]:
    """Of each tensor of one device, any dtype and shape; whole numbers are finite. Waits for the
    device once."""
    if not tensors:
        return []
    with torch.no_grad():
        counts = [tensor.numel() - torch.isfinite(tensor).sum() for tensor in tensors]
        found: list[int] = torch.stack(counts).tolist()
    return found


def first_not_finite(tensor: Tensor) -> tuple[int, ...] | None:
    """The place of the first value that is not; None when there is none."""
    places = torch.nonzero(~torch.isfinite(tensor))
    if not len(places):
        return None
    return tuple(int(number) for number in places[0])
