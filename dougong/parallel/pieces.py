"""Pieces of large dense tensors, each of which one worker may own alone.

What an optimizer updates element by element need not lie whole on a worker, and most of a large
model's dense parameters lie in tensors of more than a piece (73 % of DeepSeek-V3's). Where pieces
end follows from a tensor's shape alone, never from the number of workers: what is taken by the
piece, such as a norm, has the same bits on any layout. Imports no torch.

A piece is an owned tensor of its own, flat, by a name of its own; a tensor that is not cut keeps
its name. A plan names what is owned, so that whoever has the plan knows the cuts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from dougong.job.optimizers.declaration import ElementwiseRule

PIECE_NUMEL = 1 << 24
"""Elements of a piece; the last one of a tensor may have fewer. A multiple of `buckets.ALIGNMENT`,
so that an update's vectors begin and end where they do in the whole tensor. What a kernel has left
over behind its last vector it computes one by one, which may give other bits: torch's AdamW on a
processor does so behind cuts at odd places. Read by the planner alone: workers read names."""

_NAME = re.compile(r"(.+)\[(\d+):(\d+)\]", re.ASCII)


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of the model outside its experts. `stays_float32`: in a half-precision job
    too. `is_stored_alike`: a file has its values as they lie in memory."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    stays_float32: bool = False
    is_stored_alike: bool = True

    @property
    def num_parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class OwnedPiece:
    """Elements of a tensor from `begin` to before `end`, counted as they lie in memory, the last
    dimension's side by side."""

    tensor: str
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return self.end - self.begin

    @property
    def name(self) -> str:
        """By which it is owned, where it is not all of its tensor; `piece_named` reads it."""
        return f"{self.tensor}[{self.begin}:{self.end}]"

    @property
    def range(self) -> slice:
        """Its elements, of the flat tensor."""
        return slice(self.begin, self.end)


def piece_named(name: str) -> OwnedPiece | None:
    """The piece that is owned by this name; None: it is a whole tensor's."""
    found = _NAME.fullmatch(name) if name.endswith("]") else None
    if found is None:
        return None
    return OwnedPiece(found[1], int(found[2]), int(found[3]))


def tensor_of(name: str) -> str:
    """The tensor of which the owned one by this name is a piece, or all."""
    piece = piece_named(name)
    return name if piece is None else piece.tensor


def pieces_of(tensor: TensorSpec, is_elementwise: ElementwiseRule) -> tuple[OwnedPiece, ...]:
    """The pieces of a tensor, in order, that together are all of it; at least one.

    A tensor is whole that is not trained, has no more than `PIECE_NUMEL` elements, is updated as a
    whole (Muon's matrices), or is stored in another form. What depends on a tensor's shape, such as
    whether it decays, is asked of the tensor and not of the piece, which is flat.
    """
    numel = tensor.num_parameters
    is_cut = tensor.trainable and tensor.is_stored_alike
    is_cut = is_cut and is_elementwise(tensor.name, tensor.shape)
    longest = PIECE_NUMEL if is_cut else max(numel, 1)
    found = []
    for begin in range(0, max(numel, 1), longest):
        found.append(OwnedPiece(tensor.name, begin, min(begin + longest, numel)))
    return tuple(found)


def cut_tensors(names: Iterable[str]) -> dict[str, tuple[OwnedPiece, ...]]:
    """By tensor, the pieces among some owned names, in order; those that are whole are left out."""
    found: dict[str, list[OwnedPiece]] = {}
    for name in names:
        piece = piece_named(name)
        if piece is not None:
            found.setdefault(piece.tensor, []).append(piece)
    ordered = {}
    for tensor, pieces in found.items():
        ordered[tensor] = tuple(sorted(pieces, key=lambda piece: piece.begin))
    return ordered


def first_misplaced(pieces: Iterable[OwnedPiece]) -> tuple[OwnedPiece, int] | None:
    """Of a tensor's pieces, in order, the first that does not go on where those before it end, and
    that end; None where they all do."""
    end = 0
    for piece in pieces:
        if piece.begin != end or piece.end <= end:
            return piece, end
        end = piece.end
    return None


def owned_names(tensor: str, cut: Mapping[str, tuple[OwnedPiece, ...]]) -> list[str]:
    """By which a tensor is owned; `cut`: those that are, as `cut_tensors` says."""
    pieces = cut.get(tensor)
    return [tensor] if pieces is None else [piece.name for piece in pieces]


def owned_specs(
    tensors: Iterable[TensorSpec], owners: Mapping[str, int]
) -> Iterator[tuple[TensorSpec, int]]:
    """What is owned of some tensors, as if each piece were a tensor, and by whom; in the tensors'
    order."""
    cut = cut_tensors(owners)
    for tensor in tensors:
        pieces = cut.get(tensor.name)
        if pieces is None:
            yield tensor, owners[tensor.name]
            continue
        for piece in pieces:
            yield replace(tensor, name=piece.name, shape=(piece.numel,)), owners[piece.name]


def owners_of(tensors: Container[str], owners: Mapping[str, int]) -> dict[str, int]:
    """Of all owners, those of some tensors and of their pieces."""
    return {name: rank for name, rank in owners.items() if tensor_of(name) in tensors}
