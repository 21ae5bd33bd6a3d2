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
from dougong.job.parts.rates import Rates
from dougong.job.schema import Island, Job
from dougong.launcher.run import Options, start_run
from dougong.parallel.plan import Plan, Worker
from dougong.records.directory import RunDir
from dougong.records.metrics import MetricsRow


def calibrate(resolved: ResolvedJob, path: Path, options: Options, steps: int) -> dict[str, Rates]:
    """Speeds by island, from runs in new directories `path`/1 and `path`/2.

    Raises JobError for a job of one island, LaunchError when a run does not end well.
    """
    from dougong.training.start.preflight import inspect_only

    if len(resolved.job.islands) < 2:
        raise JobError(
            "one island: its workers are alike, and there is nothing to weigh them against; "
            "add an island"
        )
    choices_per_token = inspect_only(resolved.job).experts_per_token
    found: dict[str, dict[str, float]] = {island.name: {} for island in resolved.job.islands}
    for number, job in enumerate(turns(resolved.job, steps), start=1):
        turn = dataclasses.replace(resolved, job=job)
        run, plan = _run(turn, path / str(number), options)
        for island, (role, rate) in rates(job, plan, run.read_metrics(), choices_per_token).items():
            found[island][role] = rate
    return {island: Rates(**by_role) for island, by_role in found.items()}


def _run(resolved: ResolvedJob, folder: Path, options: Options) -> tuple[RunDir, Plan]:
    if start_run(resolved, folder, options) != 0:
        raise LaunchError(f"calibration was stopped; what there is of it lies in {folder.parent}")
    run = RunDir.open(folder)
    plan = run.read_plan()
    assert plan is not None, "a run that has ended well had a plan"
    return run, plan


def turns(job: Job, steps: int) -> tuple[Job, Job]:
    """The two runs, with one worker for each island: half of the islands compute attention and the
    others experts, then the other way round.

    Checkpoints, validation and drills are left out as far as they can be.
    """
    half = len(job.islands) // 2
    rest = len(job.islands) - half
    first = ["attention"] * half + ["experts"] * rest
    second = ["experts"] * half + ["attention"] * rest
    return _turn(job, first, steps), _turn(job, second, steps)


def _turn(job: Job, roles: Sequence[str], steps: int) -> Job:
    warmup_steps = min(job.schedule.warmup_steps, steps)
    schedule = job.schedule.model_copy(update={"warmup_steps": warmup_steps})
    changes = {
        "islands": tuple(map(_alone, job.islands, roles)),
        "steps": steps,
        "schedule": schedule,
        "offload": "none",
        "drill": (),
        "data": job.data.model_copy(update={"validation": None}),
        "checkpoint": job.checkpoint.model_copy(update={"every": 0}),
        # An island may compute here what its own kernels would not compute in the real run.
        "numerics": "bounded",
    }
    # A copy is not validated; the rules must hold for the changed job, too.
    return Job.model_validate(job.model_copy(update=changes).model_dump())


def _alone(island: Island, role: str) -> Island:
    """One worker of the island, in this role."""
    return island.model_copy(update={"workers": 1, "role": role, "speed": None, "memory_gb": None})


def rates(
    job: Job, plan: Plan, rows: Sequence[MetricsRow], choices_per_token: int
) -> Mapping[str, tuple[str, float]]:
    """(role, what it did in a second) of every island of one worker, from its metrics.

    Attention: a lane's segments; experts: thousands of rows. The first step warms up and is left
    out. Raises LaunchError where a step was too short to be measured.
    """
    found: dict[str, tuple[str, float]] = {}
    for worker in plan.workers:
        seconds = median(_compute_s(row, worker.island) for row in rows[1:])
        if seconds <= 0:
            raise LaunchError(
                f"{worker.name} computed for less time than can be measured; make batch or model "
                "larger"
            )
        role, amount = _work(job, plan, worker, choices_per_token)
        found[worker.island] = role, amount / seconds
    return found


def _work(job: Job, plan: Plan, worker: Worker, choices_per_token: int) -> tuple[str, float]:
    """(role, what it does in a step)."""
    if worker.lanes:
        return "attention", _segments(job, worker)
    return "experts", _rows(job, plan, worker, choices_per_token) / 1000


def _compute_s(row: Mapping[str, Any], island: str) -> float:
    return float(row["islands"][island]["compute_s"])


def _segments(job: Job, worker: Worker) -> int:
    """Segments of lanes that the worker computes in a step: one for each micro-batch and layer of
    experts."""
    return len(worker.lanes) * job.batch.microbatches * len(worker.experts)


def _rows(job: Job, plan: Plan, worker: Worker, choices_per_token: int) -> float:
    """Rows that the worker's experts get in a step, as many as the others'."""
    batch = job.batch
    num_sequences = batch.lanes * batch.microbatches * batch.microbatch_size
    num_rows = num_sequences * job.data.sequence_length * choices_per_token
    return num_rows * worker.num_experts / plan.num_experts
