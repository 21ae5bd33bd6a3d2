"""How many bytes cross between attention and experts, by the formulas of `parallel/dispatch/crossing.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from dougong.ops.permute import sum_dtype
from dougong.parallel.dispatch.crossing import Combine


@dataclass(frozen=True)
class Widths:
    """Sizes of what travels: `hidden_size` values of `dtype` in a vector, weights of
    `weight_dtype`."""

    hidden_size: int
    dtype: torch.dtype
    weight_dtype: torch.dtype


@dataclass(frozen=True)
class Traffic:
    """Bytes between one lane and one worker for one site and micro-batch, by message. `header`
    travels ahead once."""

    header: int
    forward: int
    outputs: int
    backward: int
    gradients: int

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.header + other.header,
            self.forward + other.forward,
            self.outputs + other.outputs,
            self.backward + other.backward,
            self.gradients + other.gradients,
        )


def bytes_of(num_tokens: int, counts: Sequence[int], widths: Widths, combine: Combine) -> Traffic:
    """The formulas at the top of `parallel/dispatch/crossing.py`, for the routing that happened.

    A row's place costs 4 bytes and its weight what it takes; the gradients of `at_attention` return
    row by row, as the outputs do, because a sum by worker would depend on the layout. What stays on
    one worker crosses nothing: leave its counts out. `counts`: the rows of each expert.
    """
    num_rows = sum(counts)
    vectors = num_tokens * widths.hidden_size * widths.dtype.itemsize
    rows = num_rows * widths.hidden_size * widths.dtype.itemsize
    weights = num_rows * widths.weight_dtype.itemsize
    ahead, slots = 8 * (1 + len(counts)), num_rows * torch.int32.itemsize
    sums = num_rows * sum_dtype(widths.dtype).itemsize
    if combine == "at_attention":
        return Traffic(ahead, vectors + slots, rows, vectors + weights, rows + sums)
    return Traffic(ahead, vectors + slots + weights, vectors, vectors, vectors + sums)
