"""Sums by the native library, for jobs that promise nothing to other plans (`determinism: run` and
`off`).

The one place where a collective adds floats: the order of NCCL, HCCL and gloo depends on the number
of workers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.parallel.comm.route import Pending
from dougong.parallel.comm.world import World
from dougong.parallel.dense.buckets import FlatTensors, views_of
from dougong.parallel.plan import Plan


class NativeReducer:
    """A worker's lanes are added up in one buffer as they come, workers by all-reduce. Same plan,
    same bits, where the library keeps an order of its own."""

    def __init__(self, world: World, plan: Plan, flat: FlatTensors) -> None:
        self._world = world
        self._buckets = flat.buckets
        self._alone = sum(bool(worker.lanes) for worker in plan.workers) == 1
        device = world.member.device
        self._buffers = [bucket.allocate(torch.float32, device) for bucket in self._buckets]
        self._sums = views_of(self._buckets, self._buffers)
        self._owned: dict[str, Tensor] = {}
        for bucket, buffer in zip(self._buckets, self._buffers, strict=True):
            part = bucket.parts.get(world.rank)
            if part is not None:
                self._owned |= bucket.owned_in(part, buffer[part])
        self._complete: set[int] = set()
        self._begun: list[Pending] = []

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        return self._sums

    def open(self, number: int) -> None:
        """There is room for all of them."""

    def complete(self, number: int) -> None:
        self._complete.add(number)
        if self._alone:
            return
        # Buckets are summed in their own order, whatever the order in which they are complete:
        # a collective must be the same call on every worker.
        while len(self._begun) in self._complete:
            self._begin(len(self._begun))

    def _begin(self, number: int) -> None:
        what = f"gradients of bucket {number}"
        buffer = self._buffers[number]
        self._begun.append(self._world.collective_of_attention(_all_reduce, buffer, what))

    def finish(self) -> dict[str, Tensor]:
        assert len(self._complete) == len(self._buckets), "a bucket's gradients are not complete"
        for pending in self._begun:
            pending.wait()
        self._complete.clear()
        self._begun.clear()
        return dict(self._owned)


def _all_reduce(values: Tensor, group: dist.ProcessGroup) -> dist.Work:
    work: dist.Work | None = dist.all_reduce(values, group=group, async_op=True)
    assert work is not None
    return work
