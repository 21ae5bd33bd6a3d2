"""What the exchanges of an experts call cost in processor time of our own, by the number of workers of an island.

    python benchmarks/exchange.py [--workers 8 64] [--tokens N] [--rounds N]

One worker of both roles, whose library is a stand-in: its all-to-all copies at once, so that what is left is our own
work (planning what crosses, the count table, the parts, the threads), with the bytes of a step the same for any number
of workers. Every other worker is thought to send what this one sends. Whole calls are measured, forward and backward:
four exchanges. Rounds of all sizes alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

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

    def __init__(self, num_workers: int, num_tokens: int) -> None:
        ranks = tuple(range(num_workers))
        member = Membership(0, num_workers, 1, "east", (("east", "gloo", ranks),), CPU, ranks)
        groups = {kind: StandIn(0, num_workers) for kind in MessageKind}
        self.world = World(member, WorldGroups(island=groups))
        self.exchange = Exchange(self.world)
        spec = DispatchSpec(HIDDEN, torch.float32, CPU)
        self.dispatcher = Dispatcher(0, plan_of(num_workers), spec, False)
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
        handle = dispatcher.begin_call(KEY, {0: self.call})
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
        batch.drows = batch.doutputs
        exchange.send(MessageKind.ROW_GRADIENTS, KEY, dispatcher.row_gradients(batch))
        dispatcher.input_gradients(handle, exchange.receive(MessageKind.ROW_GRADIENTS, KEY))
        exchange.finish()
        return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--tokens", type=int, default=512, help="of this worker's micro-batch")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    benches = {number: Bench(number, options.tokens) for number in options.workers}
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
