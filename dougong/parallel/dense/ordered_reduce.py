"""Ordered reductions: lanes' gradients to the owner of each named tensor, and updated tensors back
to everybody.

Workers add up the maximal tree nodes that they hold, and finish the tree by recursive halving
(`halving`). Messages only move data, so the sum of a tensor depends on the lanes alone
(docs/design/determinism.md). Gradients are sent from where they were added up, and added where they
are kept: nothing is copied.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dougong.parallel.comm.route import Pending
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.dense.buckets import Bucket, FlatTensors, in_halves, views_of
from dougong.parallel.dense.halving import Halving, Part, Round, share_of
from dougong.parallel.plan import Plan
from dougong.parallel.tree import LaneTree, TreeNode


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
class _Run:
    """Parts of a bucket that lie side by side and travel as one message. `begin`, `end`: of the
    bucket's elements; `parts`: (first element, last, whose memory)."""

    begin: int
    end: int
    parts: tuple[tuple[int, int, TreeNode], ...]

    @property
    def numel(self) -> int:
        return self.end - self.begin


@dataclass
class _Sum:
    """A bucket whose sum is under way. `nodes`: the memory of the nodes that this worker holds;
    `pending`: the messages of the round that has begun, `landings` what they bring, and `leaving`
    what is sent and was put together for that."""

    number: int
    nodes: Mapping[TreeNode, Tensor]
    pending: Pending | None = None
    landings: Sequence[tuple[_Run, Tensor]] = ()
    leaving: Sequence[Tensor] = ()


class OrderedReducer:
    """The canonical sum: in every lane what the lane added, over lanes the tree. `determinism:
    layout`.

    As many buckets are under way as there are rounds, each in another one; their scratch memory is
    less than one bucket's, since each round brings half of what the one before has brought.
    """

    def __init__(self, world: World, plan: Plan, flat: FlatTensors) -> None:
        self._world = world
        self._tree = LaneTree(plan.num_lanes)
        held = {w.rank: self._tree.held(w.lanes) for w in plan.workers if w.lanes}
        self._held = held.get(world.rank, [])
        self._buckets = flat.buckets
        owners = list(dict.fromkeys(itertools.chain(*(b.parts for b in flat.buckets))))
        share = share_of(Halving(self._tree, held), in_halves(owners), world.rank)
        self._rounds, self._result = share.rounds, share.result
        # One buffer a bucket for every local lane: the leaves of the tree.
        self._leaves = {lane: self._allocate() for lane in plan.workers[world.rank].lanes}
        self._sums: dict[int, dict[str, Tensor]] = {}
        for lane, leaves in self._leaves.items():
            self._sums[lane] = views_of(self._buckets, leaves)
        self._scratch = [self._allocate_scratch(one) for one in self._rounds]
        self._start()

    def _allocate(self) -> list[Tensor]:
        """Room for one lane's gradients of all buckets, zero."""
        device = self._world.member.device
        return [bucket.allocate(torch.float32, device) for bucket in self._buckets]

    def _allocate_scratch(self, its: Round) -> Tensor:
        """Room for what comes in a round of the bucket that brings most."""
        most = 0
        for bucket in self._buckets:
            runs = itertools.chain(*(_runs(bucket, parts) for parts in its.receives.values()))
            most = max(most, sum(run.numel for run in runs))
        return torch.empty(most, dtype=torch.float32, device=self._world.member.device)

    @property
    def scratch_bytes(self) -> int:
        """Memory beside the sums themselves."""
        return sum(scratch.nbytes for scratch in self._scratch)

    def _start(self) -> None:
        self._complete: set[int] = set()
        self._order = _in_order(len(self._buckets), len(self._rounds))
        self._next = next(self._order, None)
        self._under_way: dict[int, _Sum] = {}
        self._results: dict[str, Tensor] = {}

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        return self._sums[lane]

    def complete(self, number: int) -> None:
        self._complete.add(number)
        self._go_on(is_patient=False)

    def finish(self) -> dict[str, Tensor]:
        assert len(self._complete) == len(self._buckets), "a bucket's gradients are not complete"
        self._go_on(is_patient=True)
        results = self._results
        self._start()
        return results

    def _go_on(self, is_patient: bool) -> None:
        """Take the steps whose turn it is; `is_patient`: all that are left.

        Their order is every worker's, whatever the order in which buckets are complete and messages
        come: so the messages between two workers match without a word about it.
        """
        while self._next is not None:
            number, round_ = self._next
            if number not in self._complete:
                return
            known = self._under_way.get(number)
            if known is None:
                known = self._under_way[number] = _Sum(number, self._sum_held(number))
            elif known.pending is not None:
                if not is_patient and not known.pending.is_done():
                    return
                self._land(known, round_ - 1)
            if round_ < len(self._rounds):
                self._begin(known, round_)
            else:
                self._keep(self._under_way.pop(number))
            self._next = next(self._order, None)

    def _sum_held(self, number: int) -> dict[TreeNode, Tensor]:
        """The values of the nodes that this worker holds, of one bucket."""
        leaves = {(lane, 1): buffers[number] for lane, buffers in self._leaves.items()}
        return {node: self._tree.sum(leaves, node) for node in self._held}

    def _begin(self, known: _Sum, round_: int) -> None:
        """Send what is another worker's from now on, and make room for what comes."""
        bucket, its = self._buckets[known.number], self._rounds[round_]
        room = self._scratch[round_]
        sends, receives, landings = [], [], []
        for peer, parts in its.sends.items():
            sends += [Transfer(peer, _joined(run, known.nodes)) for run in _runs(bucket, parts)]
        for peer, parts in its.receives.items():
            for run in _runs(bucket, parts):
                landing, room = room[: run.numel], room[run.numel :]
                receives.append(Transfer(peer, landing))
                landings.append((run, landing))
        what = f"gradients of bucket {known.number}, round {round_}"
        known.pending = self._world.transfer(TrafficKind.SUMS, sends, receives, what)
        known.landings, known.leaving = landings, [one.tensor for one in sends]

    def _land(self, known: _Sum, round_: int) -> None:
        """Wait for a round's messages and add what they bring."""
        assert known.pending is not None
        known.pending.wait()
        for run, landing in known.landings:
            for begin, end, node in run.parts:
                known.nodes[node][begin:end].add_(landing[begin - run.begin : end - run.begin])
        places = self._buckets[known.number].parts
        for (owner, into), (_, from_) in self._rounds[round_].adds:
            if owner in places:
                part = places[owner]
                known.nodes[into][part].add_(known.nodes[from_][part])
        known.pending, known.landings, known.leaving = None, (), ()

    def _keep(self, known: _Sum) -> None:
        """This worker's own part of the whole sum."""
        bucket = self._buckets[known.number]
        part = bucket.parts.get(self._world.rank)
        if part is not None and self._result is not None:
            total = known.nodes[self._result][part]
            self._results |= _tensors_of_part(bucket, part, total)


def _in_order(num_buckets: int, num_rounds: int) -> Iterator[tuple[int, int]]:
    """(bucket, round) of all steps, the last round standing for the end: one bucket after the
    other, each as early as no two are in one round; where several are, the oldest first."""
    for time in range(num_buckets + num_rounds):
        for number in range(max(0, time - num_rounds), min(time + 1, num_buckets)):
            yield number, time - number


def _runs(bucket: Bucket, parts: Sequence[Part]) -> list[_Run]:
    """The parts that a bucket has, those that lie side by side in one."""
    found: list[_Run] = []
    for owner, node in parts:
        place = bucket.parts.get(owner)
        if place is None:
            continue
        last = found[-1] if found else None
        if last is None or last.end != place.start:
            found.append(_Run(place.start, place.stop, ((place.start, place.stop, node),)))
            continue
        begin, end, known = last.parts[-1]
        if known == node:
            joined = (*last.parts[:-1], (begin, place.stop, node))
        else:
            joined = (*last.parts, (end, place.stop, node))
        found[-1] = _Run(last.begin, place.stop, joined)
    return found


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
