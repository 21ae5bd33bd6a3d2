"""The memory that a worker takes, by its process's resident pages, against what was planned for it.

    python benchmarks/memory.py afd [--recompute none|layers] [--combine at_attention|at_experts]
    python benchmarks/memory.py jobs
    python benchmarks/memory.py large [--layers N]

`afd`: an attention and an experts worker (zebra) with 2 and with 8 micro-batches of 1,024 tokens: what each micro-batch
more costs either of them. `jobs`: the same model on several workers, in several ways. `large`: one worker with 300M
parameters and its optimizer. Counted is the most that a worker took in its second step, less what its process had after
two steps of a tiny model (torch's code, its threads). The allocator gives back at once what is freed
(MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_), so that pages are what is alive.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.update(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TOP_PAD_="0", MALLOC_TRIM_THRESHOLD_="65536")

from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.planner.needs.worker_memory import needed_memory
from dougong.training.start.preflight import inspect_only
from tests.families import config_values
from tests.jobs import make_job, make_rig, plan_for
from tests.processes import run_workers

FEW, MANY = 2, 8
"""Micro-batches of a step of `afd`."""
SHAPES = {"head_dim": 64, "num_experts": 16, "max_position_embeddings": 256}
SMALL = {"hidden_size": 256, "moe_intermediate_size": 64, "num_experts_per_tok": 8}
LARGE = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 2,
}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "two with both sides": ("BB", {}),
    "two with both sides, half moments": ("BB", {"optimizer": {"name": "adamw", "lr": 1e-5, "state": "bfloat16"}}),
    "two with both sides, layers run again": ("BB", {"recompute": "layers"}),
    "apart, zebra": ("AAE", {"pipeline": "zebra"}),
    "apart, af_pipe": ("AEE", {"pipeline": "af_pipe"}),
    "apart, zebra, layers run again": ("AAE", {"pipeline": "zebra", "recompute": "layers"}),
}
"""Of `jobs`: roles of the workers, and what the job has of its own."""


def job_of(config: Mapping[str, int], **changes: Any) -> Job:
    values: dict[str, Any] = {
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe", **SHAPES | config)},
        "data": {"text": "stdlib", "sequence_length": 256},
        "optimizer": {"name": "adamw", "lr": 1e-5},  # routing stays even, as it is planned
    }
    return make_job(**values | changes)


def resident_peak(world: World, plan: Plan, job: Job, roles: str) -> int:
    """Bytes, of the second step, beside what the process has with hardly any model."""
    tiny = make_job(batch={"lanes": job.batch.lanes, "microbatches": 2, "microbatch_size": 2}, pipeline=job.pipeline)
    before, _ = _pages_of_steps(world, plan_for(tiny, roles), tiny)
    _, most = _pages_of_steps(world, plan, job)
    return most - before


def _pages_of_steps(world: World, plan: Plan, job: Job) -> tuple[int, int]:
    """Bytes that are there after a step, and the most in the next one."""
    rig = make_rig(job, plan, world)
    rig.stepper.run(1, rig.forwards(1))
    gc.collect()
    after = _pages("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is there now
    rig.stepper.run(2, rig.forwards(2))
    rig.stepper.close()
    return after, _pages("VmHWM")


def _pages(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def measured(job: Job, roles: str) -> list[tuple[float, float]]:
    """By rank: what was taken, and what was planned, in MB."""
    plan = plan_for(job, roles)
    planned = [memory.peak for memory in needed_memory(job, inspect_only(job), plan)]
    return [
        (taken / 1e6, due / 1e6)
        for taken, due in zip(run_workers(resident_peak, plan, job, roles), planned, strict=True)
    ]


def afd(options: argparse.Namespace) -> None:
    print(f"recompute: {options.recompute}, combine: {options.combine}; MB, measured and planned")
    changes = {"pipeline": "zebra", "recompute": options.recompute, "combine": options.combine}
    found = []
    for number in (FEW, MANY):
        batch = {"lanes": 1, "microbatches": number, "microbatch_size": 4}
        found.append(measured(job_of(SMALL | {"num_hidden_layers": 4}, batch=batch, **changes), "AE"))
    few, many = found
    for role, low, high in zip(("attention", "experts"), few, many, strict=True):
        slope, due = ((after - before) / (MANY - FEW) for before, after in zip(low, high, strict=True))
        print(
            f"{role:<10} {FEW} micro-batches {words_of(low)}, {MANY}: {words_of(high)}; "
            f"each more {slope:.1f} ({due:.1f})"
        )


def jobs(options: argparse.Namespace) -> None:
    del options
    print("MB, measured and planned, by worker")
    for name, (roles, changes) in JOBS.items():
        batch = {"lanes": 2, "microbatches": 4, "microbatch_size": 4}
        found = measured(job_of(SMALL | {"num_hidden_layers": 8}, batch=batch, **changes), roles)
        print(f"{name:<38} {', '.join(map(words_of, found))}")


def words_of(one: tuple[float, float]) -> str:
    """A worker's: taken (planned: ratio)."""
    taken, due = one
    return f"{taken:.0f} ({due:.0f}: {taken / due:.3f})"


def large(options: argparse.Namespace) -> None:
    batch = {"lanes": 1, "microbatches": 2, "microbatch_size": 2}
    job = job_of(LARGE | {"num_hidden_layers": options.layers}, batch=batch, pipeline="serial")
    ((taken, due),) = measured(job, "B")
    num = inspect_only(job).num_parameters
    print(f"{num / 1e6:.0f}M parameters: {taken:.0f} MB, planned {due:.0f} MB: {taken / due:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["afd", "jobs", "large"])
    parser.add_argument("--recompute", choices=["none", "layers"], default="none")
    parser.add_argument("--combine", choices=["at_attention", "at_experts"], default="at_attention")
    parser.add_argument("--layers", type=int, default=10)
    options = parser.parse_args()
    {"afd": afd, "jobs": jobs, "large": large}[options.what](options)


if __name__ == "__main__":
    main()
