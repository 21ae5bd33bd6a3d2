"""What of a worker's buckets is added at a time, in which order, and the scratch memory that this
takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dougong.parallel.dense.buckets import BUCKET_BYTES, GRADIENT_BYTES, Bucket
from dougong.parallel.dense.halving import Part, Round
from dougong.parallel.tree import TreeNode

PIECES = 4
"""Of a bucket's bytes, into which a large tensor is cut: so many may be under way."""


@dataclass(frozen=True)
class ReduceStretch:
    """What of a bucket is added at a time. `parts`: of its elements, by owner."""

    bucket: int
    parts: Mapping[int, slice]


Piece = tuple[int, int, TreeNode]
"""(first element, end, held node in whose memory they lie)."""


@dataclass(frozen=True)
class ReduceRun:
    """Parts of a bucket that lie side by side and travel as one message. `begin`, `end`: of the
    bucket's elements."""

    begin: int
    end: int
    parts: tuple[Piece, ...]

    @property
    def numel(self) -> int:
        return self.end - self.begin


def scratch_numel(stretches: Sequence[ReduceStretch], rounds: Sequence[Round]) -> int:
    """Room for what comes in all of a worker's rounds, at most as much as the largest stretch has;
    float32 numbers."""
    most = [0] * len(rounds)
    for number, its in enumerate(rounds):
        for stretch in stretches:
            most[number] = max(most[number], sum(run.numel for run, _ in coming(stretch, its)))
    largest = max((size_of(stretch.parts) for stretch in stretches), default=0)
    return min(sum(most), max(largest, *most, 0))


def in_order(num_stretches: int, num_rounds: int) -> Iterator[tuple[int, int]]:
    """(stretch, round) of all: each stretch one round behind the one before; where several have
    their turn, the oldest first."""
    for time in range(num_stretches + num_rounds - 1 if num_rounds else 0):
        first = max(0, time - num_rounds + 1)
        for number in range(first, min(time + 1, num_stretches)):
            yield number, time - number


def stretches_of(buckets: Sequence[Bucket]) -> Iterator[ReduceStretch]:
    """A bucket that holds a large tensor in pieces, so that not all of it is under way at once;
    others whole."""
    for number, bucket in enumerate(buckets):
        numel = bucket.numel
        if GRADIENT_BYTES * numel > 2 * BUCKET_BYTES:
            numel = BUCKET_BYTES // PIECES // GRADIENT_BYTES
        for begin in range(0, bucket.numel, max(1, numel)):
            yield ReduceStretch(number, _clipped(bucket.parts, begin, begin + numel))


def _clipped(parts: Mapping[int, slice], begin: int, end: int) -> dict[int, slice]:
    found = {}
    for owner, part in parts.items():
        piece = slice(max(begin, part.start), min(end, part.stop))
        if piece.start < piece.stop:
            found[owner] = piece
    return found


def size_of(parts: Mapping[int, slice]) -> int:
    return sum(part.stop - part.start for part in parts.values())


def coming(stretch: ReduceStretch, its: Round) -> list[tuple[ReduceRun, int]]:
    """What comes in a round, and from whom."""
    found = []
    for peer, parts in its.receives.items():
        found += [(run, peer) for run in runs(stretch.parts, parts)]
    return found


def runs(places: Mapping[int, slice], parts: Sequence[Part]) -> list[ReduceRun]:
    """The parts that have a place there, those that lie side by side in one."""
    found: list[ReduceRun] = []
    for owner, node in parts:
        place = places.get(owner)
        if place is None:
            continue
        own = (place.start, place.stop, node)
        if found and found[-1].end == place.start:
            found[-1] = ReduceRun(found[-1].begin, place.stop, (*found[-1].parts, own))
        else:
            found.append(ReduceRun(place.start, place.stop, (own,)))
    return [ReduceRun(run.begin, run.end, _joined_parts(run.parts)) for run in found]


def side_by_side(places: Mapping[int, slice], owners: Iterable[int]) -> list[slice]:
    """The places of some owners, in the order in which they lie; neighbours are one."""
    found: list[slice] = []
    for place in (places[owner] for owner in owners):
        if found and found[-1].stop == place.start:
            place = slice(found.pop().start, place.stop)
        found.append(place)
    return found


def _joined_parts(parts: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbours in one memory are one."""
    found: list[Piece] = []
    for begin, end, node in parts:
        if found and found[-1][2] == node:
            begin = found.pop()[0]
        found.append((begin, end, node))
    return tuple(found)
