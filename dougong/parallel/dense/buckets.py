"""Named tensors that travel together: each bucket is one flat buffer, cut by owner, so that
messages need no copies. How they lie follows from names and shapes: it is planned without
torch."""

from __future__ import annotations

import math
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dougong.ops.sizes import ALIGNMENT_BYTES, rounded_up
from dougong.parallel.pieces import OwnedPiece, cut_tensors, owners_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BUCKET_BYTES = 32 << 20
"""Of gradients, on any number of workers: a reduction's scratch memory is less than one bucket.
A tensor that is larger is a bucket of its own."""
ALIGNMENT = ALIGNMENT_BYTES // 2
"""Elements: every tensor begins at a multiple, in half precision and in float32, as one that was
allocated alone would. A bucket is laid out once for tensors and for their gradients."""
GRADIENT_BYTES = 4
"""Gradients are float32."""


class BucketTensor(Protocol):
    """What of a tensor says where it lies; a tensor is one."""

    @property
    def dtype(self) -> Hashable: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class TensorForm:
    """That of a tensor which is not there. `dtype`: torch's, or its name as torch prints it."""

    dtype: Hashable
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Bucket:
    """Tensors of one dtype in one flat buffer.

    `shapes`: its tensors, by owner and then as they were given. `starts`: the first element of
    each. `parts`: the range of elements of each owner. `pieces`: of a tensor that is cut, which has
    its bucket for itself, in order, by the names by which they are owned.
    """

    dtype: Hashable
    shapes: Mapping[str, tuple[int, ...]]
    starts: Mapping[str, int]
    parts: Mapping[int, slice]
    numel: int
    pieces: Mapping[str, OwnedPiece] = field(default_factory=dict)

    @property
    def owned(self) -> Iterable[str]:
        """The names by which its tensors are owned."""
        return self.pieces or self.shapes

    def allocate(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A flat buffer for it, zero."""
        import torch

        return torch.zeros(self.numel, dtype=dtype, device=device)

    def view(self, flat: Tensor, name: str) -> Tensor:
        """One tensor in such a buffer, in its own shape; or, by its name, one piece, flat."""
        begin, shape = self._begin(name), self._shape(name)
        return flat[begin : begin + math.prod(shape)].view(shape)

    def owned_in(self, part: slice, values: Tensor) -> dict[str, Tensor]:
        """What is owned in one owner's part, as views of that part's values."""
        found = {}
        for name in self.owned:
            begin = self._begin(name) - part.start
            if 0 <= begin < part.stop - part.start:
                shape = self._shape(name)
                found[name] = values[begin : begin + math.prod(shape)].view(shape)
        return found

    def _begin(self, name: str) -> int:
        piece = self.pieces.get(name)
        return self.starts[name] if piece is None else self.starts[piece.tensor] + piece.begin

    def _shape(self, name: str) -> tuple[int, ...]:
        piece = self.pieces.get(name)
        return self.shapes[name] if piece is None else (piece.numel,)


def item_bytes(bucket: Bucket) -> int:
    """Of one element, where the dtype is given by its name."""
    return GRADIENT_BYTES if bucket.dtype == "torch.float32" else 2


def views_of(buckets: Sequence[Bucket], buffers: Sequence[Tensor]) -> dict[str, Tensor]:
    """Every tensor of all buckets, in one buffer for each."""
    views = {}
    for bucket, flat in zip(buckets, buffers, strict=True):
        for name in bucket.shapes:
            views[name] = bucket.view(flat, name)
    return views


def make_buckets(tensors: Mapping[str, BucketTensor], owners: Mapping[str, int]) -> list[Bucket]:
    """Cut tensors, in their order, into buckets of one dtype with `BUCKET_BYTES` and less than one
    tensor more; one that is owned in pieces is a bucket of its own. The same on every worker of a
    plan. The dtype is the tensors' own; `owners`: by owned name.
    """
    # The cut looks at sizes alone, in the order of names that all workers share: no worker has to
    # tell another where a bucket ends. It cannot change a bit of a sum either, since a sum adds one
    # tensor's element of every lane, never elements of several tensors.
    buckets: list[Bucket] = []
    cut = cut_tensors(owners)
    for dtype in sorted({tensor.dtype for tensor in tensors.values()}, key=str):
        alike = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
        for names in _cut_when_full(alike, cut):
            if names[0] in cut:
                pieces = cut[names[0]]
                buckets.append(_bucket_of_pieces(tensors[names[0]], pieces, owners))
            else:
                buckets.append(_bucket(names, tensors, owners))
    return buckets


def _cut_when_full(
    tensors: Mapping[str, BucketTensor], alone: Container[str]
) -> Iterator[list[str]]:
    """The names in their order, cut behind each whose gradients fill a bucket up, and around those
    that are to be `alone`."""
    names: list[str] = []
    filled = 0
    for name, tensor in tensors.items():
        if name in alone:
            if names:
                yield names
            yield [name]
            names, filled = [], 0
            continue
        names.append(name)
        filled += GRADIENT_BYTES * math.prod(tensor.shape)
        if filled >= BUCKET_BYTES:
            yield names
            names, filled = [], 0
    if names:
        yield names


def _bucket(
    names: Sequence[str], tensors: Mapping[str, BucketTensor], owners: Mapping[str, int]
) -> Bucket:
    """Lay tensors out by owner: what one owner gets is one piece of the buffer, and one message."""
    starts: dict[str, int] = {}
    parts: dict[int, slice] = {}
    end = 0
    present = {owners[name] for name in names}
    for owner in (one for one in in_halves(owners.values()) if one in present):
        first = end
        for name in names:
            if owners[name] == owner:
                starts[name] = end
                end += aligned(math.prod(tensors[name].shape))
        parts[owner] = slice(first, end)
    shapes = {name: tensors[name].shape for name in starts}
    return Bucket(tensors[names[0]].dtype, shapes, starts, parts, end)


def _bucket_of_pieces(
    tensor: BucketTensor, pieces: Sequence[OwnedPiece], owners: Mapping[str, int]
) -> Bucket:
    """One tensor as it lies in memory, which every owner has one stretch of."""
    parts: dict[int, slice] = {}
    for piece in pieces:
        owner = owners[piece.name]
        begin = parts[owner].start if owner in parts else piece.begin
        parts[owner] = slice(begin, aligned(piece.end))
    name, end = pieces[0].tensor, aligned(pieces[-1].end)
    named = {piece.name: piece for piece in pieces}
    return Bucket(tensor.dtype, {name: tensor.shape}, {name: 0}, parts, end, named)


def in_halves(owners: Iterable[int]) -> list[int]:
    """Owners in the order in which their parts lie in a bucket: those at even places first, of
    these again those at even places, and so on. So what recursive halving sends at a time lies side
    by side."""
    known = sorted(set(owners))
    width = (len(known) - 1).bit_length()

    def backwards(place: int) -> str:
        return f"{place:0{width}b}"[::-1] if width else ""

    return [known[place] for place in sorted(range(len(known)), key=backwards)]


def aligned(numel: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return rounded_up(numel, ALIGNMENT)


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
        self.buckets = make_buckets(backwards, owners_of(backwards, owners))
        self.buffers: list[Tensor] = []
        for bucket in self.buckets:
            like = tensors[next(iter(bucket.shapes))]
            flat = bucket.allocate(like.dtype, like.device)
            self.buffers.append(flat)
            _move_into(flat, bucket, tensors)


def _move_into(flat: Tensor, bucket: Bucket, tensors: Mapping[str, Tensor]) -> None:
    """Copy the bucket's tensors into its buffer, and make them views of it."""
    for name in bucket.shapes:
        view = bucket.view(flat, name)
        view.copy_(tensors[name].detach())
        tensors[name].data = view


def in_pieces(
    tensors: Mapping[str, Tensor], pieces: Mapping[str, Sequence[OwnedPiece]]
) -> Iterator[tuple[str, Tensor]]:
    """(owned name, values) of tensors that lie whole: of those that are owned in `pieces` flat
    views of the same memory, without a graph."""
    for name, tensor in tensors.items():
        if name not in pieces:
            yield name, tensor
            continue
        flat = tensor.detach().view(-1)
        for piece in pieces[name]:
            yield piece.name, flat[piece.range]
