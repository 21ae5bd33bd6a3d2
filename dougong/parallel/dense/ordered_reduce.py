"""Ordered reductions: lanes' gradients to the owner of each named tensor, and updated tensors back
to everybody.

Workers add up the maximal tree nodes that they hold, and finish the tree by recursive halving
(`halving`). Messages only move data, so the sum of a tensor depends on the lanes alone
(docs/design/determinism.md). Gradients are sent from where they were added up, and added where they
are kept: nothing is copied.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dougong.parallel.comm.route import Pending
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.dense.buckets import (
    BUCKET_BYTES,
    GRADIENT_BYTES,
    Bucket,
    FlatTensors,
    in_halves,
    views_of,
)
from dougong.parallel.dense.halving import Halving, Part, Round, share_of
from dougong.parallel.dense.ring import ScratchRing
from dougong.parallel.plan import Plan
from dougong.parallel.tree import LaneTree, TreeNode

PIECES = 4
"""Of a bucket's bytes, into which a large tensor is cut: so many may be under way."""


class Reducer(Protocol):
    """Sums the gradients of trainable dense tensors over lanes. Buckets leave while the backward
    still runs."""

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        """Where a local lane's gradients (float32) are to be added up; lanes may share them."""
        ...

    def complete(self, number: int) -> None:
        """The gradients of bucket `number` are complete for all local lanes. Once a step; buckets
        in any order."""
        ...

    def finish(self) -> dict[str, Tensor]:
        """The sum over all lanes of every tensor that this worker owns, when all buckets are
        complete. Collective over the attention workers; the memory is the reducer's own and holds
        until the next step's first gradient."""
        ...


@dataclass(frozen=True)
class _ReduceStretch:
    """What of a bucket is added at a time. `parts`: of its elements, by owner."""

    bucket: int
    parts: Mapping[int, slice]


_Piece = tuple[int, int, TreeNode]
"""(first element, end, held node in whose memory they lie)."""


@dataclass(frozen=True)
class _Run:
    """Parts of a bucket that lie side by side and travel as one message. `begin`, `end`: of the
    bucket's elements."""

    begin: int
    end: int
    parts: tuple[_Piece, ...]

    @property
    def numel(self) -> int:
        return self.end - self.begin


@dataclass
class _RoundUnderWay:
    """A round of a stretch that has begun: its messages, where they land, and what they send, which
    may have been put together for that."""

    stretch: int
    its: Round
    pending: Pending
    landings: Sequence[tuple[_Run, Tensor]]
    leaving: Sequence[Tensor]


class OrderedReducer:
    """The canonical sum: in every lane what the lane added, over lanes the tree. `determinism:
    layout`.

    Stretches of buckets follow one another through the rounds; what is under way at a time has
    scratch memory of less than one bucket.
    """

    def __init__(self, world: World, plan: Plan, flat: FlatTensors) -> None:
        self._world = world
        self._tree = LaneTree(plan.num_lanes)
        held = {w.rank: self._tree.held(w.lanes) for w in plan.workers if w.lanes}
        self._held = held.get(world.rank, [])
        self._buckets = flat.buckets
        self._stretches = [_ReduceStretch(*one) for one in _stretches_of(flat.buckets)]
        owners = list(dict.fromkeys(itertools.chain(*(b.parts for b in flat.buckets))))
        share = share_of(Halving(self._tree, held), in_halves(owners), world.rank)
        self._rounds, self._result = share.rounds, share.result
        # One buffer a bucket for every local lane: the leaves of the tree.
        self._leaves = {lane: self._allocate() for lane in plan.workers[world.rank].lanes}
        self._sums: dict[int, dict[str, Tensor]] = {}
        for lane, leaves in self._leaves.items():
            self._sums[lane] = views_of(self._buckets, leaves)
        self._scratch = ScratchRing(self._allocate_scratch())
        self._start()

    def _allocate(self) -> list[Tensor]:
        """Room for one lane's gradients of all buckets, zero."""
        device = self._world.member.device
        return [bucket.allocate(torch.float32, device) for bucket in self._buckets]

    def _allocate_scratch(self) -> Tensor:
        """Room for what comes in all rounds, at most as much as the largest stretch has."""
        most = [0] * len(self._rounds)
        for number, its in enumerate(self._rounds):
            for stretch in self._stretches:
                most[number] = max(most[number], sum(run.numel for run, _ in _coming(stretch, its)))
        largest = max((_size_of(stretch.parts) for stretch in self._stretches), default=0)
        numel = min(sum(most), max(largest, *most, 0))
        return torch.empty(numel, dtype=torch.float32, device=self._world.member.device)

    @property
    def scratch_bytes(self) -> int:
        """Memory beside the sums themselves."""
        return self._scratch.memory.nbytes

    def _start(self) -> None:
        self._order = _in_order(len(self._stretches), len(self._rounds))
        self._next = next(self._order, None)
        self._under_way: deque[_RoundUnderWay] = deque()
        # Of each complete bucket the memory of the nodes that this worker holds.
        self._nodes: dict[int, dict[TreeNode, Tensor]] = {}
        self._results: dict[str, Tensor] = {}

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        return self._sums[lane]

    def complete(self, number: int) -> None:
        self._nodes[number] = self._sum_held(number)
        self._go_on(is_patient=False)

    def finish(self) -> dict[str, Tensor]:
        assert len(self._nodes) == len(self._buckets), "a bucket's gradients are not complete"
        self._go_on(is_patient=True)
        for number, bucket in enumerate(self._buckets):
            self._results |= self._own_part(bucket, self._nodes[number])
        results = self._results
        self._start()
        return results

    def _go_on(self, is_patient: bool) -> None:
        """Begin the rounds whose turn it is; `is_patient`: all that are left, and end them.

        Their order is every worker's, whatever the order in which buckets are complete and messages
        come: so the messages between two workers match without a word about it.
        """
        while self._next is not None:
            stretch, round_ = self._next
            if self._stretches[stretch].bucket not in self._nodes:
                return
            while not self._has_begun(stretch, round_):
                if not is_patient and not self._under_way[0].pending.is_done():
                    return
                self._land(self._under_way.popleft())
            self._next = next(self._order, None)
        while is_patient and self._under_way:
            self._land(self._under_way.popleft())

    def _sum_held(self, number: int) -> dict[TreeNode, Tensor]:
        """The values of the nodes that this worker holds, of one bucket."""
        leaves = {(lane, 1): buffers[number] for lane, buffers in self._leaves.items()}
        return {node: self._tree.sum(leaves, node) for node in self._held}

    def _has_begun(self, stretch: int, round_: int) -> bool:
        """Send what is another worker's from now on, and make room for what comes; not before its
        last round has been added, and there is room."""
        if any(one.stretch == stretch for one in self._under_way):
            return False
        its, part = self._rounds[round_], self._stretches[stretch]
        coming = _coming(part, its)
        room = self._scratch.take(sum(run.numel for run, _ in coming))
        if room is None:
            return False
        nodes = self._nodes[part.bucket]
        sends, receives, landings = [], [], []
        for peer, parts in its.sends.items():
            sends += [Transfer(peer, _joined(run, nodes)) for run in _runs(part.parts, parts)]
        for run, peer in coming:
            landing, room = room[: run.numel], room[run.numel :]
            receives.append(Transfer(peer, landing))
            landings.append((run, landing))
        what = f"gradients of bucket {part.bucket}, stretch {stretch}, round {round_}"
        pending = self._world.transfer(TrafficKind.SUMS, sends, receives, what)
        leaving = [one.tensor for one in sends]
        self._under_way.append(_RoundUnderWay(stretch, its, pending, landings, leaving))
        return True

    def _land(self, begun: _RoundUnderWay) -> None:
        """Wait for a round's messages and add what they bring."""
        begun.pending.wait()
        part = self._stretches[begun.stretch]
        nodes = self._nodes[part.bucket]
        for run, landing in begun.landings:
            for begin, end, node in run.parts:
                nodes[node][begin:end].add_(landing[begin - run.begin : end - run.begin])
        for (owner, into), (_, from_) in begun.its.adds:
            if owner in part.parts:
                place = part.parts[owner]
                nodes[into][place].add_(nodes[from_][place])
        self._scratch.give_back()

    def _own_part(self, bucket: Bucket, nodes: Mapping[TreeNode, Tensor]) -> dict[str, Tensor]:
        """The tensors of a bucket that this worker owns, of the whole sum."""
        part = bucket.parts.get(self._world.rank)
        if part is None or self._result is None:
            return {}
        return _tensors_of_part(bucket, part, nodes[self._result][part])


def _in_order(num_stretches: int, num_rounds: int) -> Iterator[tuple[int, int]]:
    """(stretch, round) of all: each stretch one round behind the one before; where several have
    their turn, the oldest first."""
    for time in range(num_stretches + num_rounds - 1 if num_rounds else 0):
        first = max(0, time - num_rounds + 1)
        for number in range(first, min(time + 1, num_stretches)):
            yield number, time - number


def _stretches_of(buckets: Sequence[Bucket]) -> Iterator[tuple[int, dict[int, slice]]]:
    """(bucket, parts): a bucket that holds a large tensor in pieces, so that all of it need not be
    under way at once; others whole."""
    for number, bucket in enumerate(buckets):
        numel = bucket.numel
        if GRADIENT_BYTES * numel > 2 * BUCKET_BYTES:
            numel = BUCKET_BYTES // PIECES // GRADIENT_BYTES
        for begin in range(0, bucket.numel, max(1, numel)):
            yield number, _clipped(bucket.parts, begin, begin + numel)


def _clipped(parts: Mapping[int, slice], begin: int, end: int) -> dict[int, slice]:
    found = {}
    for owner, part in parts.items():
        piece = slice(max(begin, part.start), min(end, part.stop))
        if piece.start < piece.stop:
            found[owner] = piece
    return found


def _size_of(parts: Mapping[int, slice]) -> int:
    return sum(part.stop - part.start for part in parts.values())


def _coming(stretch: _ReduceStretch, its: Round) -> list[tuple[_Run, int]]:
    """What comes in a round, and from whom."""
    found = []
    for peer, parts in its.receives.items():
        found += [(run, peer) for run in _runs(stretch.parts, parts)]
    return found


def _runs(places: Mapping[int, slice], parts: Sequence[Part]) -> list[_Run]:
    """The parts that have a place there, those that lie side by side in one."""
    found: list[_Run] = []
    for owner, node in parts:
        place = places.get(owner)
        if place is None:
            continue
        own = (place.start, place.stop, node)
        if found and found[-1].end == place.start:
            found[-1] = _Run(found[-1].begin, place.stop, (*found[-1].parts, own))
        else:
            found.append(_Run(place.start, place.stop, (own,)))
    return [_Run(run.begin, run.end, _joined_parts(run.parts)) for run in found]


def _joined_parts(parts: Sequence[_Piece]) -> tuple[_Piece, ...]:
    """Neighbours in one memory are one."""
    found: list[_Piece] = []
    for begin, end, node in parts:
        if found and found[-1][2] == node:
            begin = found.pop()[0]
        found.append((begin, end, node))
    return tuple(found)


def _joined(run: _Run, nodes: Mapping[TreeNode, Tensor]) -> Tensor:
    """What a run sends: as it lies, where all of it lies in one node's memory."""
    pieces = [nodes[node][begin:end] for begin, end, node in run.parts]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _tensors_of_part(bucket: Bucket, part: slice, values: Tensor) -> dict[str, Tensor]:
    """The tensors that lie in one owner's part of a bucket, as views of the part's values."""
    tensors = {}
    for name, start in bucket.starts.items():
        if part.start <= start < part.stop:
            shape = bucket.shapes[name]
            begin = start - part.start
            tensors[name] = values[begin : begin + shape.numel()].view(shape)
    return tensors


def all_gather_parameters(world: World, plan: Plan, flat: FlatTensors) -> None:
    """Send every owner's part of the buffers to all attention workers, in place. Collective over
    them."""
    ranks = [worker.rank for worker in plan.workers if worker.lanes]
    if world.rank not in ranks:
        return
    peers = [rank for rank in ranks if rank != world.rank]
    pending = []
    for number, bucket in enumerate(flat.buckets):
        parts = {owner: flat.buffers[number][part] for owner, part in bucket.parts.items()}
        pending.append(_begin_all_gather(world, peers, number, parts))
    for transfers in pending:
        transfers.wait()


def _begin_all_gather(
    world: World, peers: Sequence[int], number: int, parts: Mapping[int, Tensor]
) -> Pending:
    """Begin to send this worker's part of a bucket, if it owns one, to its peers, and to receive
    the other owners' parts in their places."""
    sends = [Transfer(peer, parts[world.rank]) for peer in peers if world.rank in parts]
    receives = [Transfer(owner, part) for owner, part in parts.items() if owner != world.rank]
    what = f"updated parameters of bucket {number}"
    return world.transfer(TrafficKind.WEIGHTS, sends, receives, what)


def _size(part: slice | None) -> int:
    return part.stop - part.start if part is not None else 0
