"""How fast each island's workers are: two short runs in which every island computes attention once
and experts once.

The speeds are those of whole steps without waiting for messages, so attention's holds the
embedding, the head and the update too. They are for the plan only: rough is enough, and no bit
depends on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dougong.errors import JobError, LaunchError
from dougong.job.load import ResolvedJob
from dougong.job.schema import Job, Rates
from dougong.launcher.run import Options, start_run
from dougong.parallel.plan import Plan
from dougong.records.directory import RunDir
from dougong.training.preflight import inspect_only


def calibrate(resolved: ResolvedJob, path: Path, options: Options, steps: int) -> dict[str, Rates]:
    """Speeds by island, from runs in new directories `path`/1 and `path`/2. Raises JobError for a
    job of one island."""
    if len(resolved.job.islands) < 2:
        raise JobError(
            "one island: its workers are alike, and there is nothing to weigh them against; add an island"
        )
    per_token = inspect_only(resolved.job).experts_per_token
    found: dict[str, dict[str, float]] = {island.name: {} for island in resolved.job.islands}
    for number, job in enumerate(turns(resolved.job, steps), start=1):
        folder = path / str(number)
        status = start_run(dataclasses.replace(resolved, job=job), folder, options)
        if status:
            raise LaunchError(f"calibration was stopped; what there is of it lies in {path}")
        run = RunDir.open(folder)
        plan = run.read_plan()
        assert plan is not None, "a run that has ended well had a plan"
        for island, (role, rate) in rates(job, plan, run.read_metrics(), per_token).items():
            found[island][role] = rate
    return {island: Rates(**of) for island, of in found.items()}


def turns(job: Job, steps: int) -> tuple[Job, Job]:
    """The two runs: one worker for each island, the first half of the islands attention and the
    others experts, then the other way round. Checkpoints, validation and drills are left out as far
    as they can be."""
    half = len(job.islands) // 2
    roles = ["attention"] * half + ["experts"] * (len(job.islands) - half)
    return _turn(job, roles, steps), _turn(
        job, ["experts" if r == "attention" else "attention" for r in roles], steps
    )


def _turn(job: Job, roles: Sequence[str], steps: int) -> Job:
    plain: dict[str, Any] = {"workers": 1, "speed": None, "memory_gb": None}
    islands = tuple(
        i.model_copy(update={**plain, "role": r}) for i, r in zip(job.islands, roles, strict=True)
    )
    schedule = job.schedule.model_copy(
        update={"warmup_steps": min(job.schedule.warmup_steps, steps)}
    )
    changes = {
        "islands": islands,
        "steps": steps,
        "schedule": schedule,
        "offload": "none",
        "drill": (),
        "data": job.data.model_copy(update={"validation": None}),
        "checkpoint": job.checkpoint.model_copy(update={"every": 0}),
        "numerics": "bounded",  # an island may compute what its own kernels would not compute in the real run
    }
    return Job.model_validate(job.model_copy(update=changes).model_dump())


def rates(
    job: Job, plan: Plan, rows: Sequence[Mapping[str, Any]], experts_per_token: int
) -> dict[str, tuple[str, float]]:
    """(role, what it did in a second) of every island of one worker, from its metrics; the first
    step warms up."""
    batch = job.batch
    row_count = (
        batch.lanes
        * batch.microbatches
        * batch.microbatch_size
        * job.data.sequence_length
        * experts_per_token
    )
    found: dict[str, tuple[str, float]] = {}
    for worker in plan.workers:
        seconds = median(row["islands"][worker.island]["compute_s"] for row in rows[1:])
        if seconds <= 0:
            raise LaunchError(
                f"{worker.name} computed for less time than can be measured; make batch or model larger"
            )
        passes = len(worker.lanes) * batch.microbatches * len(worker.experts)
        thousand_rows = row_count / 1000 * worker.num_experts / plan.num_experts
        found[worker.island] = (worker.role, (passes if worker.lanes else thousand_rows) / seconds)
    return found
