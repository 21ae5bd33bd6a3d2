"""The canonical sum where dense tensors come and go by units: memory for a bucket's gradients is
there from the first of them until their sum is with its owners.

A thread adds and sends one bucket after the other: the sum of a unit goes on while the next unit is
walked, and while this worker waits for something else, so that no other one waits for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeAlias

import torch
from torch import Tensor

from dougong.accelerators.streams import Mark, mark, use_here, wait_for
from dougong.parallel.comm.route import Pending
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.dense.ordered_reduce import OrderedReducer
from dougong.parallel.dense.stretches import in_order
from dougong.parallel.dense.unit_tensors import UnitTensors
from dougong.parallel.plan import Plan

HOST = torch.device("cpu")
Outcome: TypeAlias = "Mark | Exception"
"""Of the thread's work on a bucket."""


class UnitReducer(OrderedReducer):
    """As `OrderedReducer`, and the same sums, bit for bit."""

    def __init__(self, world: World, plan: Plan, flat: UnitTensors) -> None:
        self._device = world.member.device
        self._thread = world.make_thread("unit-sums")
        others = (worker.rank for worker in plan.workers if worker.lanes)
        self._others = [rank for rank in others if rank != world.rank]
        self._group_of: dict[int, int] = {}
        for group, numbers in enumerate(flat.groups):
            self._group_of |= dict.fromkeys(numbers, group)
        super().__init__(world, plan, flat)
        self._stretches_of: list[list[int]] = [[] for _ in self._buckets]
        for place, stretch in enumerate(self._stretches):
            self._stretches_of[stretch.bucket].append(place)
        # What this worker owns of each bucket's sum. It lasts until the update.
        self._own: dict[int, Tensor] = {}
        for number, bucket in enumerate(self._buckets):
            if world.rank in bucket.parts:
                part = bucket.parts[world.rank]
                room = torch.empty(part.stop - part.start, dtype=torch.float32, device=self._device)
                self._own[number] = room

    def _allocate(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        leaves, sums = [], dict[str, Tensor]()
        for bucket in self._buckets:
            flat = torch.empty(bucket.numel, dtype=torch.float32, device=self._device)
            sums |= {name: bucket.view(flat, name) for name in bucket.shapes}
            flat.untyped_storage().resize_(0)
            leaves.append(flat)
        return leaves, sums

    @property
    def _lands_on(self) -> torch.device:
        return HOST

    def _start(self) -> None:
        super()._start()
        self._complete: set[int] = set()
        self._futures: list[Future[Outcome]] = []
        self._num_gone = 0

    @property
    def lane_bytes(self) -> int:
        """Memory that lanes' gradients have now."""
        total = 0
        for leaves in self._leaves.values():
            total += sum(flat.untyped_storage().nbytes() for flat in leaves)
        return total

    def open(self, number: int) -> None:
        """Not before what lies more than a unit behind has gone, where it is complete."""
        group = self._group_of[number]
        while self._num_gone < len(self._futures) and self._group_of[self._num_gone] > group + 1:
            self._await_next()
        for leaves in self._leaves.values():
            flat = leaves[number]
            flat.untyped_storage().resize_(flat.numel() * flat.element_size())
            # What lies between tensors is added and sent with them.
            flat.zero_()

    def complete(self, number: int) -> None:
        self._complete.add(number)
        # In their own order, whatever the order in which they are complete: the messages between
        # two workers match without a word about it.
        while len(self._futures) in self._complete:
            call = (self._try_to_reduce, len(self._futures), mark(self._device))
            self._futures.append(self._thread.submit(*call))

    def finish(self) -> dict[str, Tensor]:
        assert len(self._futures) == len(self._buckets), "a bucket's gradients are not complete"
        while self._num_gone < len(self._futures):
            self._await_next()
        results = self._results
        self._start()
        return results

    def _await_next(self) -> None:
        """Until the first bucket whose sum has not been waited for is with its owners."""
        what = f"gradients of bucket {self._num_gone}, step {self._world.step}"
        with PeerWait(self._world.member, self._others, what) as wait:
            outcome = wait.for_future(self._futures[self._num_gone])
        self._num_gone += 1
        if isinstance(outcome, Exception):
            raise outcome
        wait_for(outcome, self._device)

    def _try_to_reduce(self, number: int, handed_over: Mark) -> Outcome:
        """What goes wrong here is not to be taken for a lost peer by whoever waits."""
        try:
            return self._reduce(number, handed_over)
        except Exception as error:
            return error

    def _reduce(self, number: int, handed_over: Mark) -> Mark:
        """In the thread: a bucket's whole sum, of which what is this worker's own is kept."""
        wait_for(handed_over, self._device)
        buffers = [leaves[number] for leaves in self._leaves.values()]
        use_here(buffers)
        nodes = self._nodes[number] = self._sum_held(number)
        bucket = self._buckets[number]
        stretches = self._stretches_of[number]
        for place, round_ in in_order(len(stretches), len(self._rounds)):
            while not self._has_begun(stretches[place], round_):
                self._land(self._under_way.popleft())
        while self._under_way:
            self._land(self._under_way.popleft())
        if number in self._own and self._result is not None:
            part, own = bucket.parts[self._world.rank], self._own[number]
            own.copy_(nodes[self._result][part])
            self._results |= bucket.owned_in(part, own)
        del self._nodes[number]
        for flat in buffers:
            flat.untyped_storage().resize_(0)
        return mark(self._device)

    def _transfer(
        self, sends: Sequence[Transfer], receives: Sequence[Transfer], what: str
    ) -> Pending:
        on_host = [Transfer(one.rank, one.tensor.to(HOST)) for one in sends]
        return self._world.transfer_on_host(TrafficKind.SUMS, on_host, receives, what)
