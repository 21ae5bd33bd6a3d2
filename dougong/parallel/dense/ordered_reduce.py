"""Ordered reductions: lanes' gradients to the owner of each named tensor, and updated tensors back
to everybody.

Workers ship the maximal tree nodes that they hold; the owner finishes the tree. Messages only move
data, so the sum of a tensor depends on the lanes alone (`research/determinism.md`, rules 7 to 10).
Gradients are sent from where they were added up, and added where they are kept: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dougong.parallel.comm.world import Pending, Transfer, World
from dougong.parallel.dense.buckets import Bucket, FlatTensors
from dougong.parallel.plan import Plan
from dougong.parallel.tree import LaneTree, TreeNode

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


class OrderedReducer:
    """The canonical sum: in every lane what the lane added, over lanes the tree. `determinism:
    layout`."""

    def __init__(self, world: World, plan: Plan, flat: FlatTensors) -> None:
        self._world = world
        self._tree = LaneTree(plan.num_lanes)
        self._held = {w.rank: self._tree.held(w.lanes) for w in plan.workers if w.lanes}
        self._buckets = flat.buckets
        device = world.member.device
        lanes = plan.workers[world.rank].lanes
        self._leaves = [
            {lane: b.allocate(torch.float32, device) for lane in lanes} for b in self._buckets
        ]
        self._sums = {
            lane: _views(self._buckets, [leaves[lane] for leaves in self._leaves]) for lane in lanes
        }
        self._scratch = [
            self._allocate_scratch() for _ in range(min(IN_FLIGHT, len(self._buckets)))
        ]
        self._start()

    def _allocate_scratch(self) -> Tensor:
        """Room for what others ship of the largest part that this worker owns."""
        largest = max((_size(b.parts.get(self._world.rank)) for b in self._buckets), default=0)
        nodes = sum(len(nodes) for rank, nodes in self._held.items() if rank != self._world.rank)
        return torch.empty(nodes * largest, dtype=torch.float32, device=self._world.member.device)

    def _start(self) -> None:
        self._complete: set[int] = set()
        self._posted = 0
        self._summed = 0
        self._pending: dict[int, tuple[Pending, dict[TreeNode, Tensor]]] = {}
        self._results: dict[str, Tensor] = {}

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        return self._sums[lane]

    def complete(self, number: int) -> None:
        self._complete.add(number)
        self._go_on()

    def finish(self) -> dict[str, Tensor]:
        assert len(self._complete) == len(self._buckets), "a bucket's gradients are not complete"
        while self._summed < len(self._buckets):
            self._go_on()
            self._sum_oldest()
        results = self._results
        self._start()
        return results

    def _go_on(self) -> None:
        """Post complete buckets, in order (every worker's order), as far as there is scratch
        memory."""
        while self._posted in self._complete and self._posted < len(self._buckets):
            if self._posted - self._summed >= len(self._scratch):
                if not self._pending[self._summed][0].is_done():
                    return
                self._sum_oldest()
            self._post(self._posted)
            self._posted += 1

    def _post(self, number: int) -> None:
        me, parts = self._world.rank, self._buckets[number].parts
        leaves = {(lane, 1): flat for lane, flat in self._leaves[number].items()}
        nodes = {node: self._tree.sum(leaves, node) for node in self._held[me]}
        out = [
            Transfer(owner, nodes[n][part])
            for owner, part in parts.items()
            if owner != me
            for n in nodes
        ]
        into, shares = [], dict[TreeNode, Tensor]()
        if me in parts:
            pieces = iter(
                self._scratch[number % len(self._scratch)].split(max(1, _size(parts[me])))
            )
            for rank, theirs in self._held.items():
                arriving = {node: next(pieces) for node in theirs} if rank != me else {}
                into += [Transfer(rank, piece) for piece in arriving.values()]
                shares |= arriving
            shares |= {node: flat[parts[me]] for node, flat in nodes.items()}
        self._pending[number] = self._world.post(out, into), shares

    def _sum_oldest(self) -> None:
        """Wait for the oldest bucket's messages and finish its tree."""
        number = self._summed
        pending, shares = self._pending.pop(number)
        pending.wait()
        self._summed += 1
        bucket, me = self._buckets[number], self._world.rank
        if me not in bucket.parts:
            return
        scratch = self._scratch[number % len(self._scratch)]
        begin, end = (
            scratch.data_ptr(),
            scratch.data_ptr() + scratch.numel() * scratch.element_size(),
        )

        def add(left: Tensor, right: Tensor) -> Tensor:
            """left + right, kept outside of the scratch memory where one of them lies there; a sum
            has no sides."""
            return right.add_(left) if begin <= left.data_ptr() < end else left.add_(right)

        total = self._tree.sum(shares, add=add)
        offset = bucket.parts[me].start
        for name, start in bucket.starts.items():
            if bucket.parts[me].start <= start < bucket.parts[me].stop:
                shape = bucket.shapes[name]
                self._results[name] = total[start - offset : start - offset + shape.numel()].view(
                    shape
                )


def all_gather_parameters(world: World, plan: Plan, flat: FlatTensors) -> None:
    """Send every owner's part of the buffers to all attention workers, in place. Collective over
    them."""
    ranks = [w.rank for w in plan.workers if w.lanes]
    if world.rank not in ranks:
        return
    pending = []
    for bucket, buffer in zip(flat.buckets, flat.buffers, strict=True):
        mine = bucket.parts.get(world.rank)
        out = [Transfer(rank, buffer[mine]) for rank in ranks if rank != world.rank] if mine else []
        into = [
            Transfer(owner, buffer[part])
            for owner, part in bucket.parts.items()
            if owner != world.rank
        ]
        pending.append(world.post(out, into))
    for messages in pending:
        messages.wait()


def _views(buckets: Sequence[Bucket], buffers: Sequence[Tensor]) -> dict[str, Tensor]:
    return {
        n: bucket.view(flat, n)
        for bucket, flat in zip(buckets, buffers, strict=True)
        for n in bucket.shapes
    }


def _size(part: slice | None) -> int:
    return part.stop - part.start if part is not None else 0
