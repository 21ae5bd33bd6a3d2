"""Ordered reductions: lanes' gradients to the owner of each named tensor, and updated tensors back to everybody.

Workers ship the maximal tree nodes that they hold; the owner finishes the tree. Messages only move data, in buckets of
whole tensors, so the sum of a tensor depends on the lanes alone (`research/determinism.md`, rules 7 to 10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dougong.parallel.plan import Plan
from dougong.parallel.transport import World
from dougong.parallel.tree import LaneTree

BUCKET_BYTES = 32 << 20
"""Bytes of tensors per message round; smaller messages were measured to cost up to 2.9 times more."""


class OrderedReducer:
    """Sums dense gradients over lanes at their owners and spreads what the owners updated."""

    def __init__(self, world: World, plan: Plan, shapes: Mapping[str, torch.Size]) -> None:
        """`shapes`: the trainable dense tensors. Every attention worker takes part; others may call and do nothing."""
        self._world = world
        self._tree = LaneTree(plan.num_lanes)
        self._owners = plan.owners
        self._held = {w.rank: self._tree.held(w.lanes) for w in plan.workers if w.lanes}
        self._lanes = plan.workers[world.rank].lanes
        self._shapes = dict(shapes)
        self._buckets = _buckets(self._shapes)

    def reduce(self, gradients: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The sum over all lanes of every tensor that this worker owns. `gradients[lane][name]` are consumed."""
        if not self._lanes:
            return {}
        sums: dict[str, Tensor] = {}
        for names in self._buckets:
            partial = {n: self._local_nodes(n, gradients) for n in names}
            sums |= self._reduce_bucket(names, partial)
        return sums

    def _local_nodes(self, name: str, gradients: Mapping[int, Mapping[str, Tensor]]) -> list[Tensor]:
        leaves = {(lane, 1): gradients[lane][name] for lane in self._lanes}
        return [self._tree.sum(leaves, node) for node in self._held[self._world.rank]]

    def _reduce_bucket(self, names: Sequence[str], partial: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        me = self._world.rank
        mine = [n for n in names if self._owners[n] == me]
        outgoing = {}
        for rank in self._held:
            theirs = [t.reshape(-1) for n in names if self._owners[n] == rank for t in partial[n]]
            if rank != me and theirs:
                outgoing[rank] = torch.cat(theirs)
        size = sum(self._shapes[n].numel() for n in mine)
        like = next(iter(partial.values()))[0]
        incoming = {r: like.new_empty(size * len(nodes)) for r, nodes in self._held.items() if r != me and size}
        self._world.exchange(outgoing, incoming)
        nodes = {n: dict(zip(self._held[me], partial[n], strict=True)) for n in mine}
        for rank, flat in incoming.items():
            pieces = iter(flat.split([self._shapes[n].numel() for n in mine for _ in self._held[rank]]))
            for name in mine:
                for node in self._held[rank]:
                    nodes[name][node] = next(pieces).view(self._shapes[name])
        return {n: self._tree.sum(nodes[n]) for n in mine}

    def spread(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy every owner's `tensors` (all names, compute dtype) over everybody's, in place."""
        if not self._lanes:
            return
        for names in self._buckets if len(self._held) > 1 else ():
            for dtype in sorted({tensors[n].dtype for n in names}, key=str):
                self._spread_bucket([n for n in names if tensors[n].dtype == dtype], tensors)

    def _spread_bucket(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        me = self._world.rank
        owned = {r: [n for n in names if self._owners[n] == r] for r in self._held}
        mine = owned.pop(me)
        flat = torch.cat([tensors[n].reshape(-1) for n in mine]) if mine else None
        like = tensors[names[0]]
        sizes = {r: [self._shapes[n].numel() for n in theirs] for r, theirs in owned.items()}
        incoming = {r: like.new_empty(sum(s)) for r, s in sizes.items() if s}
        self._world.exchange(dict.fromkeys(owned, flat) if flat is not None else {}, incoming)
        for rank, received in incoming.items():
            for name, piece in zip(owned[rank], received.split(sizes[rank]), strict=True):
                tensors[name].copy_(piece.view(self._shapes[name]))


def _buckets(shapes: Mapping[str, torch.Size]) -> list[list[str]]:
    buckets: list[list[str]] = []
    room = 0
    for name, shape in shapes.items():
        if room <= 0:
            buckets.append([])
            room = BUCKET_BYTES
        buckets[-1].append(name)
        room -= 4 * shape.numel()
    return buckets
