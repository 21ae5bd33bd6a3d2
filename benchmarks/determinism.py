"""What the same bits on every layout cost.

    python benchmarks/determinism.py reduce [--workers 2 4] [--mebibytes 1 16 64] [--rounds N]
    python benchmarks/determinism.py step [--workers 1 2 4] [--rows 128 16] [--size small|medium] [--steps N]

`reduce`: our ordered sum to the owners and the spread of what they have to everybody, both together against gloo's
all_reduce of the same bytes, and each by itself against gloo's reduce_scatter and all_gather, in the same processes,
taking turns. `step`: a training step under `determinism: layout` against one under
`off`, each in worker processes with the environment that the launcher would give them; the two sets of processes take
turns. `--rows`: rows that an expert gets from one lane's micro-batch. Prints time over time: below 1, ours is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from benchmarks.step import make_job
from dougong.accelerators.base import switch_on_determinism, thread_environment
from dougong.accelerators.cpu import Cpu
from dougong.job.schema import Job
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.world import World
from dougong.parallel.dense.buckets import FlatTensors
from dougong.parallel.dense.ordered_reduce import OrderedReducer, all_gather_parameters
from dougong.parallel.plan import Inventory, Seat, TensorSpec, make_plan
from tests.jobs import make_rig, plan_for
from tests.stores import store_at

CONTEXT = multiprocessing.get_context("spawn")
ANSWER_S = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    of_reduce = kinds.add_parser("reduce")
    of_reduce.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    of_reduce.add_argument("--mebibytes", type=int, nargs="+", default=[1, 16, 64])
    of_step = kinds.add_parser("step")
    of_step.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    of_step.add_argument("--rows", type=int, nargs="+", default=[128, 16])
    of_step.add_argument("--size", choices=["small", "medium"], default="small")
    of_step.add_argument("--steps", type=int, default=2, help="steps a round")
    for part in (of_reduce, of_step):
        part.add_argument("--rounds", type=int, default=15, help="timed rounds of each")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since quartiles are printed")
    for workers in options.workers:
        if options.kind == "reduce":
            compare_sums(workers, options.mebibytes, options.rounds)
        else:
            for rows in options.rows:
                compare_steps(workers, rows, options)


# Sums


def compare_sums(workers: int, sizes: Sequence[int], rounds: int) -> None:
    with worker_pool(workers, sum_worker, thread_environment(1)) as pipes:
        for size in sizes:
            orders = [(how, size) for pair in PAIRS.values() for how in pair]
            turns = [[ask(pipes, order) for order in orders] for _ in range(rounds + 2)][2:]  # two rounds warm up
            times = dict(zip([how for how, _ in orders], zip(*turns, strict=True), strict=True))
            for what, (ours, theirs) in PAIRS.items():
                tell(f"{what} of {size} MiB, {workers} workers, over gloo's {theirs}", times[ours], times[theirs])


PAIRS = {
    "sum and spread": ("ours", "all_reduce"),
    "sum": ("ordered sum", "reduce_scatter"),
    "spread": ("hand on", "all_gather"),
}
"""What is compared: ours, and theirs."""


class Sums:
    """`size` MiB in 16 float32 tensors, one lane a worker; and the same as one tensor."""

    def __init__(self, world: World, workers: int, size: int) -> None:
        names = [f"t{i:02}" for i in range(16)]
        shape = ((size << 20) // 4 // len(names),)
        inventory = Inventory("sums", tuple(TensorSpec(n, shape, True) for n in names), ("experts",), workers, ())
        seats = [Seat(f"east/{i}", "east", "both", "node", f"cpu:{i}") for i in range(workers)]
        self.world, self.plan = world, make_plan(workers, inventory, seats)
        self.flat = FlatTensors({n: torch.zeros(shape) for n in names}, self.plan.owners)
        self.reducer = OrderedReducer(world, self.plan, self.flat)
        self.joined = torch.zeros(len(names) * shape[0])
        self.pieces = list(self.joined.chunk(workers))
        self.part = self.pieces[world.rank].clone()

    def do(self, how: str) -> None:
        if how == "all_reduce":
            dist.all_reduce(self.joined)
        elif how == "reduce_scatter":
            dist.reduce_scatter(self.part, self.pieces)
        elif how == "all_gather":
            dist.all_gather(self.pieces, self.part)
        if how in ("ours", "ordered sum"):
            for number in range(len(self.flat.buckets)):
                self.reducer.complete(number)
            self.reducer.finish()
        if how in ("ours", "hand on"):
            all_gather_parameters(self.world, self.plan, self.flat)


def sum_worker(rank: int, workers: int, port: int, pipe: Any) -> None:
    """Answers with the seconds of one sum or spread, from when all are ready until all have it."""
    world = join(rank, workers, port)
    made: dict[int, Sums] = {}
    while (order := pipe.recv()) is not None:
        how, size = order
        if size not in made:
            made[size] = Sums(world, workers, size)
        dist.barrier()
        begun = time.perf_counter()
        made[size].do(how)
        dist.barrier()
        pipe.send(time.perf_counter() - begun)
    world.leave()


# Steps


def compare_steps(workers: int, rows: int, options: argparse.Namespace) -> None:
    ordered = Cpu().worker_environment(1)
    with (
        worker_pool(workers, step_worker, ordered, job_of(options.size, rows, "layout")) as ours,
        worker_pool(workers, step_worker, thread_environment(1), job_of(options.size, rows, "off")) as theirs,
    ):
        turns = [[ask(pool, options.steps) for pool in (ours, theirs)] for _ in range(options.rounds + 1)]
        times = turns[1:]  # the first round warms up
    tell(
        f"step, size {options.size}, {rows} rows, {workers} workers, layout over off",
        *zip(*times, strict=True),
    )


def job_of(size: str, rows: int, determinism: str) -> Job:
    """The benchmarks' model, with sequences so long that an expert gets `rows` rows from a lane's micro-batch."""
    job = make_job(size)
    sequences = 2 if rows >= 128 else 1
    length = rows * 16 // 4 // sequences
    data = job.data.model_copy(update={"sequence_length": length})
    batch = job.batch.model_copy(update={"microbatch_size": sequences})
    return job.model_copy(update={"data": data, "batch": batch, "determinism": determinism})


def step_worker(rank: int, workers: int, port: int, pipe: Any, job: Job) -> None:
    """Answers with the seconds of a step, from when all are ready until all have ended; the mean of some steps."""
    world = join(rank, workers, port)
    if job.determinism == "layout":
        switch_on_determinism()
    rig = make_rig(job, plan_for(job, "B" * workers), world)
    step = 0
    while (count := pipe.recv()) is not None:
        world.barrier()
        begun = time.perf_counter()
        for _ in range(count):
            step += 1
            rig.stepper.run(step, rig.forwards(step))
        world.barrier()
        pipe.send((time.perf_counter() - begun) / count)
    world.leave()


# Processes that take turns


@contextmanager
def worker_pool(workers: int, work: Any, environment: dict[str, str], *arguments: Any) -> Iterator[list[Any]]:
    """Worker processes with this environment, each at the end of a pipe; they end when they are sent None."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=10))
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)  # inherited by the processes that are started now
    pipes, processes = [], []
    for rank in range(workers):
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=work, args=(rank, workers, store.port, there, *arguments), daemon=True)
        process.start()
        pipes.append(here), processes.append(process)
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})
    try:
        yield pipes
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()


def ask(pipes: Sequence[Any], order: Any) -> float:
    """Let all workers of a pool do something; the slowest one's seconds."""
    for pipe in pipes:
        pipe.send(order)
    answers = []
    for pipe in pipes:
        if not pipe.poll(ANSWER_S):
            raise SystemExit(f"a worker has not answered within {ANSWER_S} s")
        answers.append(pipe.recv())
    return max(answers)


def join(rank: int, workers: int, port: int) -> World:
    torch.set_num_threads(1)
    ranks = tuple(range(workers))
    member = Membership(rank, workers, 1, "east", (("east", "gloo", ranks),), torch.device("cpu"), ranks)
    return World.join(member, store_at(port, member.generation)) if workers > 1 else World.alone()


def tell(what: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    low, median, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    medians = f"{1000 * statistics.median(ours):.1f} ms against {1000 * statistics.median(theirs):.1f} ms"
    print(f"{what}: median {median:.3f}, quartiles {low:.3f} to {high:.3f} ({medians})", flush=True)


if __name__ == "__main__":
    main()
