"""Ordered reductions: lanes' gradients to the owner of each named tensor, and updated tensors back
to everybody.

Workers add up the maximal tree nodes that they hold, and finish the tree by recursive halving
(`halving`). Messages only move data, so the sum of a tensor depends on the lanes alone
(docs/design/determinism.md). Gradients are sent from where they were added up, and added where they
are kept; new values come to their places and are handed on from there (`doubling`): nothing is
copied.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dougong.parallel.comm.route import Pending
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.dense.buckets import Bucket, FlatTensors, in_halves, views_of
from dougong.parallel.dense.doubling import Doubling, DoublingRound
from dougong.parallel.dense.halving import Halving, Round, share_of
from dougong.parallel.dense.ring import ScratchRing
from dougong.parallel.dense.stretches import (
    ReduceRun,
    coming,
    in_order,
    runs,
    scratch_numel,
    side_by_side,
    stretches_of,
)
from dougong.parallel.plan import Plan
from dougong.parallel.tree import LaneTree, TreeNode


class Reducer(Protocol):
    """Sums the gradients of trainable dense tensors over lanes. Buckets leave while the backward
    still runs."""

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        """Where a local lane's gradients (float32) are to be added up; lanes may share them."""
        ...

    def open(self, number: int) -> None:
        """The first gradient for bucket `number` is there, or its turn to be complete without one:
        there is room for it from now on. Once a step."""
        ...

    def complete(self, number: int) -> None:
        """The gradients of bucket `number` are complete for all local lanes. Once a step; buckets
        in any order."""
        ...

    def finish(self) -> dict[str, Tensor]:
        """The sum over all lanes of what this worker owns, by owned name, when all buckets are
        complete. Collective over the attention workers; the memory is the reducer's own and holds
        until the next step's first gradient."""
        ...


@dataclass
class _RoundUnderWay:
    """A round of a stretch that has begun: its messages, where they land, and what they send, which
    may have been put together for that."""

    stretch: int
    its: Round
    pending: Pending
    landings: Sequence[tuple[ReduceRun, Tensor]]
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
        self._stretches = list(stretches_of(flat.buckets))
        owners = list(dict.fromkeys(itertools.chain(*(b.parts for b in flat.buckets))))
        share = share_of(Halving(self._tree, held), in_halves(owners), world.rank)
        self._rounds, self._result = share.rounds, share.result
        # One buffer a bucket for every local lane: the leaves of the tree.
        self._leaves: dict[int, list[Tensor]] = {}
        self._sums: dict[int, dict[str, Tensor]] = {}
        for lane in plan.workers[world.rank].lanes:
            self._leaves[lane], self._sums[lane] = self._allocate()
        numel = scratch_numel(self._stretches, self._rounds)
        room = torch.empty(numel, dtype=torch.float32, device=self._lands_on)
        self._scratch = ScratchRing(room)
        self._start()

    def _allocate(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Room for one lane's gradients of all buckets, zero; and by tensor."""
        device = self._world.member.device
        leaves = [bucket.allocate(torch.float32, device) for bucket in self._buckets]
        return leaves, views_of(self._buckets, leaves)

    @property
    def _lands_on(self) -> torch.device:
        """Where what other workers send arrives."""
        return self._world.member.device

    @property
    def scratch_bytes(self) -> int:
        """Memory beside the sums themselves."""
        return self._scratch.memory.nbytes

    def _start(self) -> None:
        self._order = in_order(len(self._stretches), len(self._rounds))
        self._next = next(self._order, None)
        self._under_way: deque[_RoundUnderWay] = deque()
        # Of each complete bucket the memory of the nodes that this worker holds.
        self._nodes: dict[int, dict[TreeNode, Tensor]] = {}
        self._results: dict[str, Tensor] = {}

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        return self._sums[lane]

    def open(self, number: int) -> None:
        """There is room for all of them."""

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
        arriving = coming(part, its)
        room = self._scratch.take(sum(run.numel for run, _ in arriving))
        if room is None:
            return False
        nodes = self._nodes[part.bucket]
        sends, receives, landings = [], [], []
        for peer, parts in its.sends.items():
            sends += [Transfer(peer, _joined(run, nodes)) for run in runs(part.parts, parts)]
        for run, peer in arriving:
            landing, room = room[: run.numel], room[run.numel :]
            receives.append(Transfer(peer, landing))
            landings.append((run, landing))
        what = f"gradients of bucket {part.bucket}, stretch {stretch}, round {round_}"
        pending = self._transfer(sends, receives, what)
        leaving = [one.tensor for one in sends]
        self._under_way.append(_RoundUnderWay(stretch, its, pending, landings, leaving))
        return True

    def _transfer(
        self, sends: Sequence[Transfer], receives: Sequence[Transfer], what: str
    ) -> Pending:
        return self._world.transfer(TrafficKind.SUMS, sends, receives, what)

    def _land(self, begun: _RoundUnderWay) -> None:
        """Wait for a round's messages and add what they bring."""
        begun.pending.wait()
        part = self._stretches[begun.stretch]
        nodes = self._nodes[part.bucket]
        for run, landing in begun.landings:
            for begin, end, node in run.parts:
                values = landing[begin - run.begin : end - run.begin]
                nodes[node][begin:end].add_(values.to(nodes[node].device))
        for (owner, into), (_, from_) in begun.its.adds:
            if owner in part.parts:
                place = part.parts[owner]
                nodes[into][place].add_(nodes[from_][place])
        self._scratch.give_back()

    def _own_part(self, bucket: Bucket, nodes: Mapping[TreeNode, Tensor]) -> dict[str, Tensor]:
        """What of a bucket this worker owns, of the whole sum, by owned name."""
        part = bucket.parts.get(self._world.rank)
        if part is None or self._result is None:
            return {}
        return bucket.owned_in(part, nodes[self._result][part])


def _joined(run: ReduceRun, nodes: Mapping[TreeNode, Tensor]) -> Tensor:
    """What a run sends: as it lies, where all of it lies in one node's memory."""
    pieces = [nodes[node][begin:end] for begin, end, node in run.parts]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def all_gather_parameters(world: World, plan: Plan, flat: FlatTensors) -> None:
    """Hand every owner's part of the buffers on until all attention workers have it, in place, by
    recursive doubling (`doubling`). Collective over them."""
    ranks = [worker.rank for worker in plan.workers if worker.lanes]
    if world.rank not in ranks:
        return
    doubling = Doubling(ranks)
    rounds = [doubling.rounds(list(bucket.parts), world.rank) for bucket in flat.buckets]
    # A round of all buckets before the next one of the first, on every worker: while what a bucket
    # brought in the one round is waited for, the others' is on its way.
    under_way: dict[int, Pending] = {}
    for round_ in range(len(doubling.distances)):
        for number, bucket in enumerate(flat.buckets):
            if number in under_way:
                under_way[number].wait()
            what = f"updated parameters of bucket {number}, round {round_}"
            its, values = rounds[number][round_], flat.buffers[number]
            under_way[number] = _begin_handing_on(world, bucket, values, its, what)
    for pending in under_way.values():
        pending.wait()


def _begin_handing_on(
    world: World, bucket: Bucket, values: Tensor, its: DoublingRound, what: str
) -> Pending:
    """Begin a round of a bucket: from where the parts lie to where they lie at the other end."""
    sends, receives = [], []
    for place in side_by_side(bucket.parts, its.going):
        sends += [Transfer(target, values[place]) for target in its.targets]
    for place in side_by_side(bucket.parts, its.coming):
        assert its.source is not None, "parts come from somebody"
        receives.append(Transfer(its.source, values[place]))
    return world.transfer(TrafficKind.WEIGHTS, sends, receives, what)
