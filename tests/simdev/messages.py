"""One of several workers on simulated devices that send each other all messages of many steps, each worker stopping
for a moment wherever chance has it.

The vendor's library is as strict as NCCL and HCCL are: an operation occupies the device until all have come to it, and
whoever asks for memory meanwhile waits for that.

SIMDEV_VENDOR=sima SIMDEV_SYNCHRONISES=1 python -m tests.simdev.messages RANK SIZE PORT STEPS SCHEDULE [swapped]
"""

from __future__ import annotations

import os
import random
import sys
import time

import torch
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.dispatch.handle import DispatchHandle, ExpertBatch
from dougong.parallel.dispatch.spec import DispatchSpec
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.schedules.message_order import MessageOrder, message_order
from dougong.parallel.schedules.operation import CallKey, Kind, MessageKind, Operation
from dougong.parallel.schedules.registry import make_programs
from dougong.parallel.segments.flight import ExpertsCall
from tests.parallel.workers import plan_of
from tests.simdev import plugin
from tests.stores import store_at
from torch import Tensor

EXPERTS, HIDDEN, TOKENS, SITES, MICROBATCHES = 6, 3, 5, 2, 2
DEVICE = torch.device(plugin.VENDOR, 0)


def index_of(lane: int, key: CallKey) -> Tensor:
    generator = torch.Generator().manual_seed(100 * lane + 10 * key[0] + key[1])
    return torch.randint(EXPERTS, (TOKENS + lane, 2), generator=generator)


class Step:
    """A step of a worker with both roles. An expert answers what it is asked times (its number + 1); the gradient of
    all outputs is 1."""

    def __init__(self, world: World, dispatcher: Dispatcher, exchange: Exchange, chance: random.Random) -> None:
        self.world, self.dispatcher, self.exchange, self.chance = world, dispatcher, exchange, chance
        self.handles: dict[CallKey, DispatchHandle] = {}
        self.batches: dict[CallKey, ExpertBatch] = {}
        self.combined: dict[CallKey, Tensor] = {}
        self.gradients: dict[CallKey, Tensor] = {}

    def run(self, program: tuple[Operation, ...], order: MessageOrder, number: int) -> None:
        self.exchange.begin_step(number)
        self.exchange.expect(self.dispatcher.expected(order))
        for operation in program:
            time.sleep(self.chance.choice((0.0, 0.0, 0.0005, 0.002)))
            self.do(operation, (operation.site, operation.microbatch))
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        sums = [torch.full((7,), float(self.world.rank), device=DEVICE) for _ in (0, 1)]
        landed = [Transfer(rank, torch.zeros(7, device=DEVICE)) for rank in others for _ in (0, 1)]
        sends = [Transfer(rank, values) for rank in others for values in sums]
        self.world.transfer(TrafficKind.SUMS, sends, landed, "sums").wait()
        self.exchange.finish()
        self.landed, self.due = landed, [rank for rank in others for _ in (0, 1)]

    def do(self, operation: Operation, key: CallKey) -> None:
        dispatcher, exchange, (lane,) = self.dispatcher, self.exchange, (self.world.rank,)
        match operation.kind:
            case Kind.SEND_ROWS:
                index = index_of(lane, key).to(DEVICE)
                hidden = torch.ones(len(index), HIDDEN, device=DEVICE) * (1 + lane)
                weights = torch.full(index.shape, 0.5, device=DEVICE)
                handle = dispatcher.begin_call(key, {lane: ExpertsCall(key[0], hidden, index, weights, 0)})
                self.handles[key] = handle
                for kind in (MessageKind.OUTPUTS, MessageKind.ROW_GRADIENTS):
                    exchange.make_room(kind, key, dispatcher.returned(kind, handle))
                exchange.send(MessageKind.ROWS, key, dispatcher.rows(handle))
            case Kind.RECEIVE_ROWS:
                batch = dispatcher.make_batch(key, exchange.receive(MessageKind.ROWS, key))
                self.batches[key] = batch
                exchange.make_room(MessageKind.OUTPUT_GRADIENTS, key, dispatcher.arriving(batch))
            case Kind.SEND_OUTPUTS:
                batch = self.batches[key]
                batch.outputs = self.times_expert(batch, batch.rows)
                exchange.send(MessageKind.OUTPUTS, key, dispatcher.outputs(batch))
            case Kind.RECEIVE_OUTPUTS:
                handle = self.handles[key]
                dispatcher.combine(handle, exchange.receive(MessageKind.OUTPUTS, key))
                self.combined[key] = handle.combined[lane]
            case Kind.SEND_OUTPUT_GRADIENTS:
                douts = {lane: torch.ones_like(self.combined[key])}
                exchange.send(MessageKind.OUTPUT_GRADIENTS, key, dispatcher.output_gradients(self.handles[key], douts))
            case Kind.RECEIVE_OUTPUT_GRADIENTS:
                received = exchange.receive(MessageKind.OUTPUT_GRADIENTS, key)
                dispatcher.take_output_gradients(self.batches[key], received)
            case Kind.SEND_ROW_GRADIENTS:
                batch = self.batches[key]
                drows = self.times_expert(batch, batch.weigh_gradients())
                batch.end_backward(drows, self.times_expert(batch, batch.rows))
                exchange.send(MessageKind.ROW_GRADIENTS, key, dispatcher.row_gradients(batch))
            case Kind.RECEIVE_ROW_GRADIENTS:
                received = exchange.receive(MessageKind.ROW_GRADIENTS, key)
                self.gradients[key] = dispatcher.input_gradients(self.handles[key], received)[lane][0]

    def times_expert(self, batch: ExpertBatch, rows: Tensor) -> Tensor:
        answers = torch.empty_like(rows)
        for block in batch.blocks:
            answers[block.span] = rows[block.span] * (block.expert + 1)
        return answers

    def check(self) -> None:
        """Against the same sums on the processor."""
        lane = self.world.rank
        assert [int(transfer.tensor[3]) for transfer in self.landed] == self.due
        for key, combined in self.combined.items():
            factors = (index_of(lane, key) + 1).sum(1, keepdim=True).float() * 0.5
            due = factors.expand(-1, HIDDEN)
            assert torch.equal(combined.cpu(), due * (1 + lane)), key
            assert torch.equal(self.gradients[key].cpu(), due), key


def main(rank: int, size: int, port: int, steps: int, schedule: str, is_swapped: bool) -> None:
    torch.accelerator.set_device_index(0)
    plan = plan_of("B" * size, size, EXPERTS)
    everybody = tuple(range(size))
    names, deadlines = tuple(f"east/{r}" for r in everybody), Deadlines(message_s=4.0 if is_swapped else 60.0)
    islands = (("east", plugin.LIBRARY, everybody),)
    member = Membership(rank, size, 1, "east", islands, DEVICE, everybody, names, deadlines)
    world = World.join(member, store_at(port))
    programs = make_programs(schedule, SITES, MICROBATCHES, dict.fromkeys(names, "both"))
    order = list(message_order(programs))
    if is_swapped and rank == 0:
        order.reverse()
    dispatcher = Dispatcher(rank, plan, DispatchSpec(HIDDEN, torch.float32, DEVICE), False)
    exchange = Exchange(world)
    for number in range(steps):
        step = Step(world, dispatcher, exchange, random.Random(1000 * rank + number))
        with plugin.HostWaits() as waits:
            step.run(programs[rank].operations, tuple(order), number)
        step.check()
        # All that is sent has sizes that the host must know: one wait for each call of experts, and no other.
        due = {"parallel/dispatch/crossing.py:plan_crossings copy to host": SITES * MICROBATCHES}
        assert waits.places == due, waits.places
    world.barrier()
    world.leave()
    print("all steps have come to their end")


if __name__ == "__main__":
    words = sys.argv[1:]
    try:
        main(int(words[0]), int(words[1]), int(words[2]), int(words[3]), words[4], "swapped" in words)
    except PeerError as error:
        print(error, flush=True)
        os._exit(1)  # threads that wait for what never comes are not waited for
