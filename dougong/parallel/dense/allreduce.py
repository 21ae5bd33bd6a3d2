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

from dougong.parallel.comm.world import PATIENCE, World, naming_lost_peers
from dougong.parallel.dense.buckets import FlatTensors
from dougong.parallel.plan import Plan


class NativeReducer:
    """A worker's lanes are added up in one buffer as they come, workers by all-reduce. Same plan,
    same bits, where the library keeps an order of its own."""

    def __init__(self, world: World, plan: Plan, flat: FlatTensors) -> None:
        self._world = world
        self._buckets = flat.buckets
        self._alone = sum(bool(w.lanes) for w in plan.workers) == 1
        device = world.member.device
        self._buffers = [bucket.allocate(torch.float32, device) for bucket in self._buckets]
        self._sums = {
            n: bucket.view(buffer, n)
            for bucket, buffer in zip(self._buckets, self._buffers, strict=True)
            for n in bucket.shapes
        }
        self._owned = [n for n in self._sums if plan.owners[n] == world.rank]
        self._complete: set[int] = set()
        self._begun: list[tuple[dist.Work, Tensor, Tensor]] = []

    def sums(self, lane: int) -> Mapping[str, Tensor]:
        return self._sums

    def complete(self, number: int) -> None:
        self._complete.add(number)
        while (
            len(self._begun) in self._complete and not self._alone
        ):  # in order: every worker's order
            buffer = self._buffers[len(self._begun)]
            group, on_host = self._world.group_of_sums()
            landed = buffer.cpu() if on_host else buffer
            work = dist.all_reduce(landed, group=group, async_op=True)
            assert work is not None
            self._begun.append((work, landed, buffer))

    def finish(self) -> dict[str, Tensor]:
        assert len(self._complete) == len(self._buckets), "a bucket's gradients are not complete"
        with naming_lost_peers(self._world.rank):
            for work, landed, buffer in self._begun:
                work.wait(PATIENCE)
                if landed is not buffer:
                    buffer.copy_(landed)
        self._complete.clear()
        self._begun.clear()
        return {n: self._sums[n] for n in self._owned}
