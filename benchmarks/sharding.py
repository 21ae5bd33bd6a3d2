"""`dense: shard` against `copy`, in zebra: the time of a step, and the most that a worker has of its dense tensors.

    python benchmarks/sharding.py [--workers N] [--layers N] [--hidden N] [--tokens N] [--steps N] [--precision P]
    python benchmarks/sharding.py --planned [--workers N]

One thread a worker, both taking turns step by step in the same processes; prints the ratio of processor seconds of all
workers together and of the wall, with quartiles, and what the plan counts of dense tensors, which the tests hold
against a vendor's allocator. `--planned` runs nothing: what the plan counts of DeepSeek-V3's dense tensors on so many
workers (256), with large tensors whole, and in pieces.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from dougong.job.optimizers.declaration import of_no_tensor
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model
from dougong.parallel.comm.world import World
from dougong.parallel.pieces import cut_tensors
from dougong.parallel.plan import Inventory, Plan, Seat, make_plan
from dougong.planner.needs.dense_units import UnitBytes, owned_gradient_bytes
from dougong.planner.needs.holdings import dense_buckets, dense_groups, holdings, owned_parameters, owning_bytes
from dougong.planner.plan_job import elementwise_rule
from tests.families import config_values
from tests.jobs import VOCAB, make_job, make_rig, plan_for
from tests.processes import run_workers

WAYS = ("copy", "shard")
Times = list[tuple[float, float]]
"""(processor seconds, seconds) of each step of a worker."""


def job_of(options: argparse.Namespace, dense: str) -> Job:
    config = config_values(
        "qwen3_moe",
        num_hidden_layers=options.layers,
        hidden_size=options.hidden,
        head_dim=options.hidden // 4,
        moe_intermediate_size=options.hidden // 2,
        max_position_embeddings=options.tokens,
    )
    return make_job(
        model={"family": "qwen3_moe", "config": config},
        data={"text": "stdlib", "sequence_length": options.tokens},
        batch={"lanes": options.workers, "microbatches": 2, "microbatch_size": 2},
        precision=options.precision,
        pipeline="zebra",
        dense=dense,
    )


def taken(world: World, plan: Plan, jobs: Sequence[Job], steps: int) -> list[Times]:
    """By way; the first two steps warm up."""
    torch.set_num_threads(1)
    rigs = [make_rig(job, plan, world) for job in jobs]
    times: list[Times] = [[] for _ in jobs]
    for step in range(1, steps + 3):
        for rig, of_way in zip(rigs, times, strict=True):
            forwards = rig.forwards(step)
            world.barrier()
            begun = time.process_time(), time.perf_counter()
            rig.stepper.run(step, forwards)
            if step > 2:
                of_way.append((time.process_time() - begun[0], time.perf_counter() - begun[1]))
    for rig in rigs:
        rig.stepper.close()
    return times


def say_ratio(what: str, copy: Sequence[float], shard: Sequence[float]) -> None:
    ratios = [one / other for one, other in zip(shard, copy, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    medians = f"{statistics.median(copy):.3f} and {statistics.median(shard):.3f} s a step"
    print(f"{what}: {medians}; shard over copy {statistics.median(ratios):.3f}, quartiles {low:.3f} to {high:.3f}")


def say_memory(job: Job, plan: Plan) -> None:
    inventory = inspect_model(job.model, VOCAB)
    assert inventory.units is not None
    units = UnitBytes.of(inventory.units, *dense_groups(job, inventory, plan))
    segments = range(len(inventory.units.by_segment))
    there = max(max(units.forward(s), units.backward(s)) for s in segments)
    whole = units.lasting_weights + sum(units.weights)
    sums = max(units.sums(s) for s in segments)
    print(f"dense weights {whole / 1e6:.2f} MB, of which at most {there / 1e6:.2f} MB are there ({there / whole:.3f})")
    print(f"sums of a lane {(units.lasting_gradients + sum(units.gradients)) / 1e6:.2f} MB, at most {sums / 1e6:.2f}")
    own = [held.masters + held.moments for held in holdings(job, inventory, plan)]
    print(f"masters and moments of a worker: {', '.join(f'{num / 1e6:.1f} MB' for num in own)}")


def say_planned(num_workers: int) -> None:
    """Of a bfloat16 job with one lane a worker."""
    model = {"family": "deepseek_v3", "config": {"vocab_size": 129280}}
    jobs = [
        make_job(model=model, precision="bfloat16", batch={"lanes": num_workers}, pipeline="zebra", dense=way)
        for way in WAYS
    ]
    inventory = inspect_model(jobs[0].model, None)
    seats = [Seat(f"east/{rank}", "east", "both", "node", f"cuda:{rank}") for rank in range(num_workers)]
    for rule, how in ((of_no_tensor, "whole"), (elementwise_rule(jobs[0]), "in pieces")):
        plan = make_plan(num_workers, inventory, seats, is_elementwise=rule)
        num_cut, num_owned = len(cut_tensors(plan.owners)), len(plan.owners)
        print(f"DeepSeek-V3, {num_workers} workers, owned {how}: {num_owned} names, {num_cut} tensors are cut")
        for job in jobs:
            lasting = dense_bytes(job, inventory, plan)
            mean, most = sum(lasting) / num_workers / 1e9, max(lasting) / 1e9
            print(f"  dense: {job.dense}: lasting {mean:.2f} GB a worker in the mean, {most:.2f} at most")


def dense_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[int]:
    """By rank: masters, moments and gradients of what it owns; with copies all weights and gradients."""
    owned = [owning_bytes(job) * number for number in owned_parameters(inventory, plan)]
    if job.dense == "shard":
        sums = owned_gradient_bytes(dense_buckets(job, inventory, plan), plan)
        return [one + other for one, other in zip(owned, sums, strict=True)]
    each = sum(tensor.num_parameters * (8 if tensor.stays_float32 else 6) for tensor in inventory.tensors)
    return [one + each for one in owned]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int)
    parser.add_argument("--planned", action="store_true", help="of DeepSeek-V3 on 256 workers; nothing is run")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence; a micro-batch has two")
    parser.add_argument("--steps", type=int, default=9, help="timed steps of each")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    if options.planned:
        say_planned(options.workers or 256)
        return
    options.workers = options.workers or 2
    jobs = [job_of(options, way) for way in WAYS]
    plan = plan_for(jobs[0], "B" * options.workers)
    words = f"qwen3_moe, {options.layers} layers, hidden {options.hidden}, {options.precision}"
    shape = f"2 micro-batches of 2 x {options.tokens} tokens"
    print(f"{words}; {options.workers} workers, {shape}, {options.steps} steps each")
    by_worker = run_workers(taken, plan, jobs, options.steps)
    together = [list(zip(*of_way, strict=True)) for of_way in zip(*by_worker, strict=True)]
    cpu = [[sum(one[0] for one in step) for step in of_way] for of_way in together]
    wall = [[max(one[1] for one in step) for step in of_way] for of_way in together]
    say_ratio("processor seconds", *cpu)
    say_ratio("seconds", *wall)
    say_memory(jobs[1], plan)


if __name__ == "__main__":
    main()
