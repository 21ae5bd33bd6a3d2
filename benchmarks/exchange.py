"""What the exchanges of an experts call cost in processor time of our own, by the number of workers of an island.

    python benchmarks/exchange.py [--workers 8 64] [--tokens N] [--rounds N] [--far]

One worker of both roles, whose library is a stand-in: its all-to-all copies at once, so that what is left is our own
work (planning what crosses, the count table, the parts, the threads), with the bytes of a step the same for any number
of workers. Every other worker is thought to send what this one sends. Whole calls are measured, forward and backward:
four exchanges. Rounds of all sizes alternate.

`--far`: two real workers, each an island of its own, so that each share is a message of its own by gloo; what such a
message costs both ends, over a call in which nothing is sent.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.world import World
from dougong.parallel.comm.world_groups import WorldGroups
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.dispatch.spec import DispatchSpec
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.plan import Inventory, Plan, Seat, TensorSpec, make_plan
from dougong.parallel.schedules.operation import MessageKind
from dougong.parallel.segments.flight import ExpertsCall
from tests.processes import run_workers

CPU = torch.device("cpu")
EXPERTS, CHOICES, HIDDEN = 64, 4, 32
KEY = (0, 0)


class Done(dist.Work):
    """An operation that has ended before it begins."""

    def wait(self, *limit: object) -> bool:
        return True


class StandIn(dist.ProcessGroup):
    """All others send what this worker sends itself."""

    def alltoall_base(
        self, output: Tensor, given: Tensor, output_sizes: list[int], sizes: list[int], *options: Any
    ) -> dist.Work:
        own = given[: sizes[0]]
        output.view(len(output_sizes), *own.shape).copy_(own)
        return Done()


def plan_of(num_workers: int) -> Plan:
    tensors = (TensorSpec("t", (2,), True),)
    inventory = Inventory("tiny", tensors, ("experts",), EXPERTS, ())
    seats = [Seat(f"east/{n}", "east", "both", "node", f"cpu:{n}") for n in range(num_workers)]
    return make_plan(num_workers, inventory, seats)


class Bench:
    """One worker among so many."""

    def __init__(self, world: World, num_tokens: int) -> None:
        self.world, self.exchange = world, Exchange(world)
        spec = DispatchSpec(HIDDEN, torch.float32, CPU)
        self.dispatcher = Dispatcher(world.rank, plan_of(world.size), spec, False)
        self.lane = world.rank
        # As many rows for each expert as for any other.
        index = torch.arange(num_tokens * CHOICES).view(num_tokens, CHOICES) % EXPERTS
        hidden = torch.zeros(num_tokens, HIDDEN)
        self.call = ExpertsCall(0, hidden, index, torch.full(index.shape, 0.25), 0)

    def run(self) -> float:
        """Seconds of processor time of one call, forward and backward, all threads together."""
        begun = time.process_time()
        dispatcher, exchange = self.dispatcher, self.exchange
        order = [(kind, KEY) for kind in MessageKind]
        exchange.expect(dispatcher.expected(order))
        handle = dispatcher.begin_call(KEY, {self.lane: self.call})
        for kind in (MessageKind.OUTPUTS, MessageKind.ROW_GRADIENTS):
            exchange.make_room(kind, KEY, dispatcher.returned(kind, handle))
        exchange.send(MessageKind.ROWS, KEY, dispatcher.rows(handle))
        batch = dispatcher.make_batch(KEY, exchange.receive(MessageKind.ROWS, KEY))
        exchange.make_room(MessageKind.OUTPUT_GRADIENTS, KEY, dispatcher.arriving(batch))
        batch.outputs = batch.rows
        exchange.send(MessageKind.OUTPUTS, KEY, dispatcher.outputs(batch))
        dispatcher.combine(handle, exchange.receive(MessageKind.OUTPUTS, KEY))
        exchange.send(MessageKind.OUTPUT_GRADIENTS, KEY, dispatcher.output_gradients(handle, handle.combined))
        dispatcher.take_output_gradients(batch, exchange.receive(MessageKind.OUTPUT_GRADIENTS, KEY))
        batch.end_backward(batch.weigh_gradients(), batch.outputs)
        exchange.send(MessageKind.ROW_GRADIENTS, KEY, dispatcher.row_gradients(batch))
        dispatcher.input_gradients(handle, exchange.receive(MessageKind.ROW_GRADIENTS, KEY))
        exchange.finish()
        return time.process_time() - begun


def alone_among(num_workers: int) -> World:
    """The first of so many workers of an island, whose library is the stand-in."""
    ranks = tuple(range(num_workers))
    member = Membership(0, num_workers, 1, "east", (("east", "gloo", ranks),), CPU, ranks)
    return World(member, WorldGroups(island={kind: StandIn(0, num_workers) for kind in MessageKind}))


def calls_of(world: World, plan: Plan, num_tokens: int, rounds: int) -> tuple[list[float], int]:
    """Processor time of calls in this world, and how many messages each of them sends."""
    bench = Bench(world, num_tokens)
    for _ in range(10):
        bench.run()
    before = int(world.sent.num_messages.sum())
    times = [bench.run() for _ in range(rounds)]
    return times, (int(world.sent.num_messages.sum()) - before) // rounds


def tell_far(num_tokens: int, rounds: int) -> None:
    apart = (("east", (0,)), ("west", (1,)))
    (times, num_messages), _ = run_workers(calls_of, plan_of(2), num_tokens, rounds, islands=apart)
    nothing_sent, _ = calls_of(World.alone(), plan_of(1), num_tokens, rounds)
    more = [1000 * (seconds - statistics.median(nothing_sent)) / num_messages for seconds in times]
    low, median, high = statistics.quantiles(more, n=4)
    spread = f"{median:.3f} ms ({low:.3f} to {high:.3f})"
    print(f"{num_messages} messages a call each way; {spread} for one sent and one received")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--tokens", type=int, default=512, help="of this worker's micro-batch")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--far", action="store_true", help="a message to another island")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.far:
        tell_far(options.tokens, options.rounds)
        return
    benches = {number: Bench(alone_among(number), options.tokens) for number in options.workers}
    times: dict[int, list[float]] = {number: [] for number in benches}
    for number in range(options.rounds + 10):
        for workers, bench in benches.items():
            seconds = bench.run()
            if number >= 10:
                times[workers].append(seconds)
    first = statistics.median(times[options.workers[0]])
    print("| workers | ms of a call | ms of an exchange | against the first |")
    print("|---|---|---|---|")
    for workers, found in times.items():
        median = statistics.median(found)
        low, high = (statistics.quantiles(found, n=4)[place] / first for place in (0, 2))
        shown = f"{median / first:.2f} ({low:.2f} to {high:.2f})"
        print(f"| {workers} | {1000 * median:.2f} | {1000 * median / len(MessageKind):.2f} | {shown} |")
    for bench in benches.values():
        bench.world.leave()


if __name__ == "__main__":
    main()
