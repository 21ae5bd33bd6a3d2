"""Who owns which dense tensors, and which pieces of them: keeps their masters, updates them and
saves them. Imports no torch."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from dougong.errors import PlanError
from dougong.job.optimizers.declaration import ElementwiseRule
from dougong.parallel.pieces import OwnedPiece, TensorSpec, cut_tensors, first_misplaced, pieces_of

_Loads = list[tuple[int, int]]
"""A heap of (elements, rank)."""


def assign_owners(
    tensors: Sequence[TensorSpec], ranks: Sequence[int], is_elementwise: ElementwiseRule
) -> dict[str, int]:
    """Large tensors first, each to the worker that has least so far; of equals the first. So are
    the pieces of one that is cut, of which a worker's lie side by side. By owned name: rank.
    """
    loads: _Loads = [(0, rank) for rank in ranks]  # ranks ascend
    owners: dict[str, int] = {}
    for tensor in sorted(tensors, key=lambda t: (-t.num_parameters, t.name)):
        pieces = pieces_of(tensor, is_elementwise)
        takers = [_give(loads, piece.numel) for piece in pieces]
        if len(pieces) == 1:
            owners[tensor.name] = takers[0]
        else:
            owners |= _side_by_side(pieces, takers)
    return dict(sorted(owners.items()))


def _give(loads: _Loads, numel: int) -> int:
    load, rank = loads[0]
    heapq.heapreplace(loads, (load + numel, rank))
    return rank


def _side_by_side(pieces: Sequence[OwnedPiece], takers: Sequence[int]) -> dict[str, int]:
    """As many pieces to each of the takers, and the last, which may be shorter, to its own."""
    order: dict[int, int] = {}
    for place, rank in enumerate(takers):
        order[rank] = place
    counts = Counter(takers)
    runs: list[int] = []
    for rank in sorted(order, key=order.__getitem__):
        runs += [rank] * counts[rank]
    return {piece.name: rank for piece, rank in zip(pieces, runs, strict=True)}


def check_owners(owners: Mapping[str, int], num_workers: int) -> None:
    """PlanError where an owner is none of the plan's, or the pieces of a tensor do not follow each
    other, a worker's side by side."""
    for name, owner in owners.items():
        if not 0 <= owner < num_workers:
            raise PlanError(
                f"owners.{name}: is rank {owner}, but the plan has {num_workers} workers"
            )
    for tensor, pieces in cut_tensors(owners).items():
        if tensor in owners:
            raise PlanError(f"owners.{tensor}: is owned whole, and {pieces[0].name} beside it")
        misplaced = first_misplaced(pieces)
        if misplaced is not None:
            piece, end = misplaced
            raise PlanError(
                f"owners.{piece.name}: begins at {piece.begin}, but the piece before it ends "
                f"at {end}; pieces of a tensor follow each other"
            )
        ranks = [owners[piece.name] for piece in pieces]
        if len(list(itertools.groupby(ranks))) > len(set(ranks)):
            raise PlanError(f"owners.{tensor}: the pieces of a worker do not lie side by side")
