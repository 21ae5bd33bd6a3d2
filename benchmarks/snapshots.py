"""What snapshots cost: a step that copies and sends the last step's state beside it, over one that does not.

    python benchmarks/snapshots.py [--workers 2 3] [--size small|medium] [--replicas N] [--lanes N] [--steps N]
        [--rounds N]

Two sets of worker processes take turns, one with `fault.snapshots` and one without. Prints time over time, what a step
sends of replicas, and the memory that snapshots take; and how long a worker then waits, at the end of a step's
gradients, for what is not whole yet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.determinism import ask, join, tell, worker_pool
from benchmarks.step import make_job
from dougong.accelerators.cpu import Cpu
from dougong.job.fault.snapshots import Snapshots
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model
from dougong.planner.needs.snapshot_bytes import part_sizes, snapshot_bytes
from dougong.training.build import StepOptions
from dougong.training.memory.state_memory import StateMemory
from dougong.training.state import state_of
from tests.jobs import VOCAB, make_rig, plan_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--size", choices=["small", "medium"], default="small")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--lanes", type=int, help="of a step, 1024 tokens each; default: those of the benchmarks")
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since quartiles are printed")
    for workers in options.workers:
        compare(workers, options)


def compare(workers: int, options: argparse.Namespace) -> None:
    with_them = job_of(options.size, workers, {"every": 1, "replicas": options.replicas}, options.lanes)
    without = job_of(options.size, workers, {"every": 0}, options.lanes)
    environment = Cpu().worker_environment(1)
    with (
        worker_pool(workers, step_worker, environment, with_them) as kept,
        worker_pool(workers, step_worker, environment, without) as bare,
    ):
        turns = [[ask(pool, options.steps) for pool in (kept, bare)] for _ in range(options.rounds + 1)]
        waits = ask(kept, "waits")
    tell(f"step, size {options.size}, {workers} workers, with snapshots over without", *zip(*turns[1:], strict=True))
    print(f"    a step's wait for its snapshot: median {1000 * waits:.1f} ms (the worker that waits longest)")
    tell_bytes(with_them, workers)


def tell_bytes(job: Job, workers: int) -> None:
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, "B" * workers)
    sent = job.fault.snapshots.num_replicas * sum(part.num_bytes for part in part_sizes(job, inventory, plan))
    memory = sum(part.total for part in snapshot_bytes(job, inventory, plan))
    print(f"    {sent / 1e6:.1f} MB of state sent a step, {memory / 1e6:.1f} MB of memory, all workers together")


def job_of(size: str, workers: int, snapshots: dict[str, int], lanes: int | None = None) -> Job:
    job = make_job(size)
    fault = job.fault.model_validate({"snapshots": snapshots})
    batch = job.batch.model_copy(update={"lanes": lanes or max(workers, job.batch.lanes)})
    return job.model_copy(update={"fault": fault, "batch": batch})


class Timed(StateMemory):
    """Takes the time of every wait before an update."""

    def __init__(self, settings: Snapshots) -> None:
        super().__init__(settings)
        self.waits: list[float] = []

    def before_update(self) -> None:
        begun = time.perf_counter()
        super().before_update()
        self.waits.append(time.perf_counter() - begun)


def step_worker(rank: int, workers: int, port: int, pipe: Any, job: Job) -> None:
    """Answers with the seconds of a step, from when all are ready until all have ended; the mean of some steps."""
    world = join(rank, workers, port)
    plan, memory = plan_for(job, "B" * workers), Timed(job.fault.snapshots)
    rig = make_rig(job, plan, world, StepOptions(memory=memory))
    memory.follow(world, plan, lambda: state_of(rig.replica, rig.stepper.optimizer), 0)
    step = 0
    while (order := pipe.recv()) is not None:
        if order == "waits":
            pipe.send(statistics.median(memory.waits))
            continue
        world.barrier()
        begun = time.perf_counter()
        for _ in range(order):
            step += 1
            rig.stepper.run(step, rig.forwards(step))
        world.barrier()
        pipe.send((time.perf_counter() - begun) / order)
    memory.end()
    world.leave()


if __name__ == "__main__":
    main()
