"""Two workers of dougong against two workers of others' expert parallelism, side by side.

    python benchmarks/expert_parallel.py [--size small|medium] [--rounds N] [--steps N] [--peers NAME ...]

Two processes on this machine, one thread each, gloo between them. All contestants live in both processes and take turns
in short rounds of a few steps, so that a noisy neighbour meets all. They train the same qwen3_moe from the same initial
values on the same tokens with the same optimizer; the first step's losses must agree before anything is measured.
Prints our tokens per second over the peer's, round by round: median and quartiles; and the processor time that a step
costs one worker, which shows what a busy machine hides.

Peers: `deepspeed-moe`, `deepspeed-autoep`, `transformers` (its own expert parallelism); benchmarks/requirements.txt has
what they need. Without --peers: those whose packages are there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from benchmarks.peers import PEERS, WORKERS, Setting, Step
from benchmarks.step import make_job
from dougong.job.schema import Job
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.world import World
from tests.jobs import make_rig, plan_for
from tests.stores import store_at

TOLERANCE = 1e-4
"""Largest difference of first-step losses (about 5.5): the same arithmetic in another order."""

NEEDS = {
    "deepspeed-moe": "deepspeed",
    "deepspeed-autoep": "deepspeed",
    "transformers": "accelerate",
}
"""The package without which a peer does not run, besides those that dougong needs."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for. `scratch` is an empty directory."""

    size: str
    rounds: int
    steps: int
    peers: tuple[str, ...]
    scratch: str


@dataclass(frozen=True)
class Round:
    """Seconds a step, from when both workers are ready until both have ended; this worker's processor seconds a step;
    the last step's loss."""

    step_s: float
    cpu_s: float
    loss: float


def worker(rank: int, port: int, options: Options) -> None:
    """One of the two processes: builds every contestant and lets them take turns."""
    torch.set_num_threads(1)
    _answer_launcher_variables(rank, port)
    ranks = tuple(range(WORKERS))
    member = Membership(rank, WORKERS, 1, "east", (("east", "gloo", ranks),), torch.device("cpu"), ranks)
    world = World.join(member, store_at(port, member.generation))
    job = normalising_job(options.size)
    plan = plan_for(job, "B" * WORKERS)
    setting = Setting(job, rank, plan.workers[rank].lanes, Path(options.scratch))
    contestants: dict[str, Step] = {"dougong": our_step(job, plan, world)}
    contestants |= {name: PEERS[name](setting) for name in options.peers}
    losses = {name: [mean_over_workers(step(1))] for name, step in contestants.items()}
    check(losses)
    times: dict[str, list[Round]] = {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name, step in contestants.items():
            measured = one_round(step, 2 + number * options.steps, options.steps)
            losses[name].append(mean_over_workers(measured.loss))
            if number:  # the first round warms up
                times[name].append(measured)
    if rank == 0:
        report(options, job, times, losses)
    dist.barrier()
    world.leave()


def normalising_job(size: str) -> Job:
    """step.py's job with the routing that every peer can do: the chosen experts' weights add up to one."""
    job = make_job(size)
    config = {**job.model.config, "norm_topk_prob": True}
    return job.model_copy(update={"model": job.model.model_copy(update={"config": config})})


def our_step(job: Job, plan: Any, world: World) -> Step:
    rig = make_rig(job, plan, world)
    return lambda number: rig.stepper.run(number, rig.forwards(number)).loss


def one_round(step: Step, first: int, count: int) -> Round:
    dist.barrier()
    begun, worked = time.perf_counter(), time.process_time()
    for number in range(first, first + count):
        loss = step(number)
    dist.barrier()
    return Round((time.perf_counter() - begun) / count, (time.process_time() - worked) / count, loss)


def mean_over_workers(loss: float) -> float:
    total = torch.tensor(loss, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / WORKERS


def check(losses: dict[str, list[float]]) -> None:
    """Before anything is measured: everybody trains the same model on the same tokens."""
    ours = losses["dougong"][0]
    for name, values in losses.items():
        if abs(values[0] - ours) > TOLERANCE:
            raise SystemExit(f"{name}: first loss {values[0]:.6f} against dougong's {ours:.6f}; not the same model")


def report(options: Options, job: Job, rounds: dict[str, list[Round]], losses: dict[str, list[float]]) -> None:
    batch = job.batch
    tokens = batch.lanes * batch.microbatches * batch.microbatch_size * job.data.sequence_length
    print(f"size {options.size}, {WORKERS} workers, {options.rounds} rounds of {options.steps} steps each")
    for name, measured in rounds.items():
        low, median, high = statistics.quantiles([tokens / r.step_s for r in measured], n=4)
        speed = f"{median:6.0f} tokens/s ({low:.0f} to {high:.0f})"
        cpu_s = statistics.median(r.cpu_s for r in measured)
        first, last = losses[name][0], losses[name][-1]
        print(f"{name:17} {speed}, {cpu_s:.3f} processor s; loss {first:.5f}, then {last:.5f}")
    for name in options.peers:
        ratios = [theirs.step_s / ours.step_s for theirs, ours in zip(rounds[name], rounds["dougong"], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"dougong over {name}, tokens/s: median {median:.3f}, quartiles {low:.3f} to {high:.3f}")


def _answer_launcher_variables(rank: int, port: int) -> None:
    """DeepSpeed and transformers read what torchrun would have set; the group itself exists already."""
    values = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": WORKERS,
        "LOCAL_SIZE": WORKERS,
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in values.items()}, MASTER_ADDR="127.0.0.1")


def installed(names: list[str] | None) -> tuple[str, ...]:
    """The peers to run; says which are missing and how to get them. Asked-for ones must be there."""
    missing = [n for n in names or PEERS if importlib.util.find_spec(NEEDS[n]) is None]
    if missing:
        packages = ", ".join(sorted({NEEDS[n] for n in missing}))
        text = f"cannot run {', '.join(missing)} without {packages}: benchmarks/requirements.txt says how to install it"
        if names:
            raise SystemExit(text)
        print(text)
    return tuple(n for n in names or PEERS if n not in missing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["small", "medium"], default="small")
    parser.add_argument("--rounds", type=int, default=12, help="timed rounds of each")
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), help="default: all that are installed")
    asked = parser.parse_args()
    if asked.rounds < 2:
        parser.error("--rounds: at least 2, since quartiles are printed")
    peers = installed(asked.peers)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=10))
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(asked.size, asked.rounds, asked.steps, peers, scratch)
        multiprocessing.spawn(worker, (store.port, options), nprocs=WORKERS)


if __name__ == "__main__":
    main()
