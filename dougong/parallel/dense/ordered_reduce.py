"""Ordered reductions: lanes' gradients to the owner of each named tensor, and updated tensors back
to everybody.

Workers ship the maximal tree nodes that they hold; the owner finishes the tree. Messages only move
data, so the sum of a tensor depends on the lanes alone (docs/design/determinism.md). Gradients are
sent from where they were added up, and added where they are kept: nothing is copied.
"""

from __future__ import annotations

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
from dougong.parallel.dense.buckets import Bucket, FlatTensors, views_of
from dougong.parallel.plan import Plan
from dougong.parallel.tree import Add, LaneTree, TreeNode

IN_FLIGHT = 2
"""Buckets whose messages may be under way at once: that many have scratch memory."""


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


@dataclass
class _Sum:
    """A bucket whose messages are under way: what they bring, and all parts of its sum."""

    number: int
    pending: Pending
    shares: dict[TreeNode, Tensor]


class OrderedReducer:
    """The canonical sum: in every lane what the lane added, over lanes the tree. `determinism:
    layout`."""

    def __init__(self, world: World, plan: Plan, flat: FlatTensors) -> None:
        self._world = world
        self._tree = LaneTree(plan.num_lanes)
        self._held = _nodes_by_rank(self._tree, plan)
        self._buckets = flat.buckets
        # One buffer a bucket for every local lane: the leaves of the tree.
        self._leaves = {lane: self._allocate() for lane in plan.workers[world.rank].lanes}
        self._sums: dict[int, dict[str, Tensor]] = {}
        for lane, leaves in self._leaves.items():
            self._sums[lane] = views_of(self._buckets, leaves)
        # For each bucket that may be under way.
        self._scratch = [self._allocate_scratch() for _ in self._buckets[:IN_FLIGHT]]
        self._start()

    def _allocate(self) -> list[Tensor]:
        """Room for one lane's gradients of all buckets, zero."""
        device = self._world.member.device
        return [bucket.allocate(torch.float32, device) for bucket in self._buckets]

    def _allocate_scratch(self) -> Tensor:
        """Room for what others ship of the largest part that this worker owns."""
        rank = self._world.rank
        largest = max((_size(bucket.parts.get(rank)) for bucket in self._buckets), default=0)
        num_nodes = sum(len(nodes) for owner, nodes in self._held.items() if owner != rank)
        device = self._world.member.device
        return torch.empty(num_nodes * largest, dtype=torch.float32, device=device)

    def _start(self) -> None:
        self._complete: set[int] = set()
        self._num_begun = 0
        self._under_way: deque[_Sum] = deque()
        self._results: dict[str, Tensor] = {}

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        return self._sums[lane]

    def complete(self, number: int) -> None:
        self._complete.add(number)
        self._go_on()

    def finish(self) -> dict[str, Tensor]:
        assert len(self._complete) == len(self._buckets), "a bucket's gradients are not complete"
        self._go_on()
        while self._under_way:
            self._sum_oldest()
            self._go_on()
        results = self._results
        self._start()
        return results

    def _go_on(self) -> None:
        """Begin the messages of complete buckets, as far as there is scratch memory.

        Buckets leave in their own order, whatever the order in which they are complete: that order
        is every worker's, so the messages between two workers match without a word about it.
        """
        while self._num_begun < len(self._buckets) and self._num_begun in self._complete:
            if len(self._under_way) == len(self._scratch):
                if not self._under_way[0].pending.is_done():
                    return
                self._sum_oldest()
            self._under_way.append(self._begin(self._num_begun))
            self._num_begun += 1

    def _begin(self, number: int) -> _Sum:
        """Send the nodes that this worker holds to the owners, and make room for those of
        others."""
        held = self._sum_held(number)
        receives: list[Transfer] = []
        shares: dict[TreeNode, Tensor] = {}
        owned = self._buckets[number].parts.get(self._world.rank)
        if owned is not None:
            shares = {node: value[owned] for node, value in held.items()}
            receives = self._receive_shares(number, shares)
        sends = self._send_shares(number, held)
        what = f"gradients of bucket {number}"
        pending = self._world.transfer(TrafficKind.SUMS, sends, receives, what)
        return _Sum(number, pending, shares)

    def _sum_held(self, number: int) -> dict[TreeNode, Tensor]:
        """The values of the nodes that this worker holds, of one bucket."""
        leaves = {(lane, 1): buffers[number] for lane, buffers in self._leaves.items()}
        return {node: self._tree.sum(leaves, node) for node in self._held[self._world.rank]}

    def _send_shares(self, number: int, held: Mapping[TreeNode, Tensor]) -> list[Transfer]:
        """Every other owner's part of the nodes that this worker holds."""
        sends = []
        for owner, part in self._buckets[number].parts.items():
            if owner != self._world.rank:
                sends += [Transfer(owner, value[part]) for value in held.values()]
        return sends

    def _receive_shares(self, number: int, shares: dict[TreeNode, Tensor]) -> list[Transfer]:
        """Pieces of the scratch memory for the nodes that others hold, added to `shares`."""
        size = _size(self._buckets[number].parts[self._world.rank])
        pieces = iter(self._scratch[number % len(self._scratch)].split(max(1, size)))
        receives = []
        for rank, nodes in self._held.items():
            if rank == self._world.rank:
                continue
            for node in nodes:
                shares[node] = next(pieces)
                receives.append(Transfer(rank, shares[node]))
        return receives

    def _sum_oldest(self) -> None:
        """Wait for the oldest bucket's messages and finish its tree."""
        oldest = self._under_way.popleft()
        oldest.pending.wait()
        bucket = self._buckets[oldest.number]
        part = bucket.parts.get(self._world.rank)
        if part is None:
            return
        scratch = self._scratch[oldest.number % len(self._scratch)]
        total = self._tree.sum(oldest.shares, add=_adding_outside_of(scratch))
        self._results |= _tensors_of_part(bucket, part, total)


def _nodes_by_rank(tree: LaneTree, plan: Plan) -> dict[int, list[TreeNode]]:
    """What every worker with lanes ships."""
    attention = [worker for worker in plan.workers if worker.lanes]
    return {worker.rank: tree.held(worker.lanes) for worker in attention}


def _tensors_of_part(bucket: Bucket, part: slice, values: Tensor) -> dict[str, Tensor]:
    """The tensors that lie in one owner's part of a bucket, as views of the part's values."""
    tensors = {}
    for name, start in bucket.starts.items():
        if part.start <= start < part.stop:
            shape = bucket.shapes[name]
            begin = start - part.start
            tensors[name] = values[begin : begin + shape.numel()].view(shape)
    return tensors


def _adding_outside_of(scratch: Tensor) -> Add:
    """left + right, kept outside of the scratch memory where one of them lies there.

    The next bucket's messages land in that memory, but the result must last until the next step.
    Into which of the two is added changes no bit: a + b is b + a.
    """
    begin = scratch.data_ptr()
    end = begin + scratch.numel() * scratch.element_size()

    def add(left: Tensor, right: Tensor) -> Tensor:
        if begin <= left.data_ptr() < end:
            return right.add_(left)
        return left.add_(right)

    return add


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
