"""Named tensors that travel together: each bucket is one flat buffer, cut by owner, so that
messages need no copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MESSAGE_BYTES = 4 << 20
"""Smaller messages were measured to cost up to 2.9 times more (`research/determinism.md`, section
3)."""
ALIGNMENT = 64
"""Elements: every tensor begins at a multiple, as one that was allocated alone would."""


@dataclass(frozen=True)
class Bucket:
    """`shapes`: its tensors, by owner and then as they were given. `starts`: the first element of
    each. `parts`: the range of elements of each owner."""

    dtype: torch.dtype
    shapes: Mapping[str, torch.Size]
    starts: Mapping[str, int]
    parts: Mapping[int, slice]
    numel: int

    def allocate(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A flat buffer for it, zero."""
        return torch.zeros(self.numel, dtype=dtype, device=device)

    def view(self, flat: Tensor, name: str) -> Tensor:
        """One tensor in such a buffer, in its own shape."""
        shape, start = self.shapes[name], self.starts[name]
        return flat[start : start + shape.numel()].view(shape)


def make_buckets(tensors: Mapping[str, Tensor], owners: Mapping[str, int]) -> list[Bucket]:
    """Cut tensors, in their order, into buckets of one dtype whose owners' parts have
    `MESSAGE_BYTES` on average.

    The same on every worker of a plan. The dtype is the tensors' own.
    """
    size = MESSAGE_BYTES * len(set(owners.values()))
    buckets: list[Bucket] = []
    for dtype in sorted({t.dtype for t in tensors.values()}, key=str):
        names: list[str] = []
        room = size
        for name in (n for n, t in tensors.items() if t.dtype == dtype):
            names.append(name)
            room -= 4 * tensors[name].numel()  # gradients are float32
            if room <= 0:
                buckets.append(_bucket(names, tensors, owners))
                names, room = [], size
        buckets += [_bucket(names, tensors, owners)] if names else []
    return buckets


def _bucket(
    names: Sequence[str], tensors: Mapping[str, Tensor], owners: Mapping[str, int]
) -> Bucket:
    starts: dict[str, int] = {}
    parts: dict[int, slice] = {}
    end = 0
    for owner in sorted({owners[n] for n in names}):
        first = end
        for name in (n for n in names if owners[n] == owner):
            starts[name] = end
            end += -(-tensors[name].numel() // ALIGNMENT) * ALIGNMENT
        parts[owner] = slice(first, end)
    shapes = {n: tensors[n].shape for n in starts}
    return Bucket(tensors[names[0]].dtype, shapes, starts, parts, end)


class FlatTensors:
    """Trainable dense tensors of one worker, in compute precision, each a view of its bucket's
    buffer."""

    def __init__(self, tensors: Mapping[str, Tensor], owners: Mapping[str, int]) -> None:
        """Moves the tensors' values into buffers and makes the tensors (parameters stay the same
        objects) views.

        Buckets follow the tensors' order backwards, which is about the order in which gradients
        come.
        """
        backwards = dict(reversed(list(tensors.items())))
        self.buckets = make_buckets(backwards, {n: owners[n] for n in backwards})
        self.buffers: list[Tensor] = []
        for bucket in self.buckets:
            flat = bucket.allocate(bucket.dtype, next(iter(tensors.values())).device)
            self.buffers.append(flat)
            for name in bucket.shapes:
                view = bucket.view(flat, name)
                view.copy_(tensors[name].detach())
                tensors[name].data = view
