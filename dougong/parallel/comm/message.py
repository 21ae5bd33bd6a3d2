"""Messages between attention and experts: tensors cut into the shares of peers, and the count table
that tells their sizes.

Nothing is padded, and nobody tells a size on the way: both ends know them, from the table that goes
ahead of an experts call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LABEL = ("generation", "step", "site", "microbatch")
"""The first numbers of each share of a table: what tells it from every other one between the same
two workers."""


@dataclass(frozen=True)
class SplitTensor:
    """A contiguous tensor whose first dimension is cut into shares, one for each of some peers, in
    their order. `sizes`: of the shares."""

    values: Tensor
    sizes: Sequence[int]

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry of the first dimension."""
        size = self.values.element_size()
        for length in self.values.shape[1:]:
            size *= length
        return size


@dataclass(frozen=True)
class PartRoom:
    """What a split tensor will be: shape [sum(sizes), *tail]."""

    sizes: Sequence[int]
    tail: tuple[int, ...]
    dtype: torch.dtype

    def allocate(self, device: torch.device) -> SplitTensor:
        """Memory for it."""
        shape = (sum(self.sizes), *self.tail)
        return SplitTensor(torch.empty(shape, dtype=self.dtype, device=device), self.sizes)

    def fits(self, part: SplitTensor) -> bool:
        """Whether a tensor is of this shape, dtype and split."""
        values = part.values
        shape = (sum(self.sizes), *self.tail)
        is_alike = tuple(values.shape) == shape and values.dtype == self.dtype
        return is_alike and list(part.sizes) == list(self.sizes)

    def __str__(self) -> str:
        return f"{(sum(self.sizes), *self.tail)} {self.dtype}"


@dataclass(frozen=True)
class TableSpec:
    """A count table (int64, on the host) that goes ahead. `sends`: how many numbers go to each
    receiver; `receives`: how many come from each sender; `rooms`: what comes behind it, from all
    that has come of it (called once for each table, as a rule in a thread of messages)."""

    sends: Sequence[int]
    receives: Sequence[int]
    rooms: Callable[[Tensor], Sequence[PartRoom]]


def write_label(table: Tensor, sizes: Sequence[int], label: Sequence[int]) -> None:
    """Write the label into each share, where room is left for it."""
    table.numpy()[_places(sizes)] = label


def labels_of(table: Tensor, sizes: Sequence[int]) -> NDArray[np.int64]:
    """The label of each share, [shares, 4]."""
    labels: NDArray[np.int64] = table.numpy()[_places(sizes)]
    return labels


def _places(sizes: Sequence[int]) -> NDArray[np.int64]:
    begins = np.cumsum([0, *sizes])[:-1]
    return begins[:, None] + np.arange(len(LABEL))
