"""Pieces of large dense tensors, each of which one worker may own alone.

What an optimizer updates element by element need not lie whole on a worker, and most of a large
model's dense parameters lie in tensors of more than a piece (94.5 % of DeepSeek-V3's). Where pieces
end follows from a tensor's shape alone, never from the number of workers: what is taken by the
piece, such as a norm, has the same bits on any layout. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from dougong.job.optimizers.declaration import ElementwiseRule
from dougong.parallel.plan import TensorSpec

PIECE_NUMEL = 1 << 24
"""Elements of a piece; the last one of a tensor may have fewer. A multiple of `buckets.ALIGNMENT`,
so that an update's vectors begin and end where they do in the whole tensor. What a kernel has left
over behind its last vector it computes one by one, which may give other bits: torch's AdamW on a
processor does so behind cuts at odd places."""


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


def pieces_of(tensor: TensorSpec, is_elementwise: ElementwiseRule) -> tuple[OwnedPiece, ...]:
    """The pieces of a tensor, in order, that together are all of it; at least one.

    A tensor is whole that is not trained, has no more than `PIECE_NUMEL` elements, or is updated as
    a whole (Muon's matrices). What depends on a tensor's shape, such as whether it decays, is asked
    of the tensor and not of the piece, which is flat.
    """
    numel = tensor.num_parameters
    is_cut = tensor.trainable and is_elementwise(tensor.name, tensor.shape)
    longest = PIECE_NUMEL if is_cut else max(numel, 1)
    found = []
    for begin in range(0, max(numel, 1), longest):
        found.append(OwnedPiece(tensor.name, begin, min(begin + longest, numel)))
    return tuple(found)
