"""The island's native library (NCCL, HCCL): one communicator, and one thread that issues all of its
operations.

Two communicators, or two threads with one, may each wait for what the other side issues later:
NCCL's guide asks for one order of launches on all devices ("Using multiple NCCL communicators
concurrently"). Here every worker of an island issues the same operations in the same order: the
step's exchanges, in an order in which each needs only earlier ones (`schedules.message_order`),
then gradients and weights. None blocks the host: an operation is ordered behind what the worker
handed over (`accelerators.streams`), and what reads its result behind it. How long one may take is
the health plane's to say: a worker whose device waits stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.accelerators.streams import Mark, mark, use_here, wait_for
from dougong.parallel.comm.all_to_all import AllToAll
from dougong.parallel.comm.packing import as_bytes, pack, places, room_for
from dougong.parallel.comm.route import by_peer
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import NewWait

Collective = Callable[[Tensor, dist.ProcessGroup], dist.Work]
"""Begins an operation of a library on a tensor, of all workers of a group together."""


@dataclass(frozen=True)
class NativeGroup:
    """The library's group of an island. `has_all_to_all`: its collective of that name works."""

    group: dist.ProcessGroup
    has_all_to_all: bool = True


@dataclass(frozen=True)
class Landing:
    """What an exchange moves inside the island, when the worker has handed it over and there is
    room for what comes: the marks of both."""

    parts: Sequence[AllToAll]
    marks: Sequence[Mark]


class NativeLibrary:
    """Issues operations one after another, from a thread of its own."""

    def __init__(self, native: NativeGroup, device: torch.device, thread: MessageThread) -> None:
        self.group = native.group
        self._has_all_to_all = native.has_all_to_all
        self._device, self._thread = device, thread

    def exchange(self, landing: Future[Landing], new_wait: NewWait) -> Future[Mark]:
        """Behind all that was asked for before: an all-to-all of every part, when it is handed
        over."""
        return self._thread.submit(self._exchange, landing, new_wait)

    def transfer(
        self, sends: Sequence[Transfer], receives: Sequence[Transfer], new_wait: NewWait
    ) -> Future[Mark]:
        """Behind all that was asked for before, and behind what this thread's stream has now: one
        message in each direction to each peer."""
        handed_over = mark(self._device)
        return self._thread.submit(self._transfer, sends, receives, handed_over, new_wait)

    def collective(self, begin: Collective, values: Tensor, new_wait: NewWait) -> Future[Mark]:
        """As `transfer`: an operation of all the group's workers on `values`, in place."""
        return self._thread.submit(self._collective, begin, values, mark(self._device), new_wait)

    def _exchange(self, landing: Future[Landing], new_wait: NewWait) -> Mark:
        # No time limit: the worker's own computation, or a thread that has one.
        ready = landing.result()
        for handed_over in ready.marks:
            wait_for(handed_over, self._device)
        with new_wait() as wait:
            for part in ready.parts:
                use_here([part.sent, part.received])
                works = self._begin(part)
                wait.on_this_stream(works)
        return mark(self._device)

    def _begin(self, part: AllToAll) -> list[dist.Work]:
        if self._has_all_to_all:
            return [part.begin(self.group)]
        return part.begin_one_by_one(self.group)

    def _transfer(
        self,
        sends: Sequence[Transfer],
        receives: Sequence[Transfer],
        handed_over: Mark,
        new_wait: NewWait,
    ) -> Mark:
        wait_for(handed_over, self._device)
        use_here([transfer.tensor for transfer in (*sends, *receives)])
        operations, sent, landings = [], [], list[tuple[Tensor, Tensor]]()
        for rank, tensors in by_peer(receives).items():
            room = room_for(tensors)
            operations.append(dist.P2POp(dist.irecv, room, rank, self.group))
            if len(tensors) > 1:
                landings += zip(places(room, tensors), map(as_bytes, tensors), strict=True)
        for rank, tensors in by_peer(sends).items():
            sent.append(pack(tensors))
            operations.append(dist.P2POp(dist.isend, sent[-1], rank, self.group))
        with new_wait() as wait:
            wait.on_this_stream(dist.batch_isend_irecv(operations))
        for landed, target in landings:
            target.copy_(landed)
        return mark(self._device)

    def _collective(
        self, begin: Collective, values: Tensor, handed_over: Mark, new_wait: NewWait
    ) -> Mark:
        wait_for(handed_over, self._device)
        use_here([values])
        with new_wait() as wait:
            wait.on_this_stream([begin(values, self.group)])
        return mark(self._device)
