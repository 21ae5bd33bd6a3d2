"""Which program every worker of a job runs in a step. Imports no torch."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dougong.errors import PlanError
from dougong.job.schema import Job
from dougong.parallel.plan import Plan, Role
from dougong.parallel.schedules.check import Alive, check
from dougong.parallel.schedules.operation import Program
from dougong.parallel.schedules.registry import make_programs

ALIKE = 2
"""Workers of a role run the same program; a proof with so many of each holds for any number."""


def programs_of(job: Job, plan: Plan) -> list[Program]:
    """What every worker does in a step, by rank. Raises `PlanError` for a schedule that is not made
    for these roles."""
    roles = {worker.name: worker.role_in_step for worker in plan.workers}
    return make_programs(pipeline_of(job, plan), num_sites(plan), job.batch.microbatches, roles)


def pipeline_of(job: Job, plan: Plan) -> str:
    """The schedule's name. `pipeline: auto`: in step where all workers have attention and experts,
    in stripes where they are apart, or where dense tensors come and go layer by layer."""
    if job.pipeline != "auto":
        return job.pipeline
    if job.dense == "shard":
        return "zebra"
    roles = {worker.role_in_step for worker in plan.workers}
    return "colocated" if roles == {"both"} else "zebra"


def num_sites(plan: Plan) -> int:
    """Experts calls in a forward."""
    return len(plan.workers[0].experts)


def prove(job: Job, plan: Plan) -> dict[Role, Alive]:
    """That the step is complete, in a legal order and free of deadlock; returns what a worker of
    each role keeps alive.

    Raises `PlanError` with worker, operation and position.
    """
    # Workers of a role run the same program, so that more of them prove nothing more.
    num_chosen: Counter[Role] = Counter()
    chosen: dict[str, Role] = {}
    for worker in plan.workers:
        role = worker.role_in_step
        if num_chosen[role] < ALIKE:
            num_chosen[role] += 1
            chosen[worker.name] = role
    step = _ScheduleShape(pipeline_of(job, plan), num_sites(plan), job.batch.microbatches)
    try:
        return dict(_prove(step, tuple(chosen.values())))
    except PlanError:
        check(make_programs(*step.words, chosen), *step.words[1:])  # by the workers' names
        raise


@dataclass(frozen=True)
class _ScheduleShape:
    """What programs follow from, beside the roles."""

    pipeline: str
    num_sites: int
    num_microbatches: int

    @property
    def words(self) -> tuple[str, int, int]:
        return self.pipeline, self.num_sites, self.num_microbatches


@functools.lru_cache(maxsize=64)
def _prove(step: _ScheduleShape, roles: tuple[Role, ...]) -> Mapping[Role, Alive]:
    """The same of workers without names, so that a plan of the same kinds of workers, such as that
    of most recoveries, is proved by the one before."""
    workers = {f"worker {number}": role for number, role in enumerate(roles)}
    programs = make_programs(*step.words, workers)
    alive = check(programs, step.num_sites, step.num_microbatches)
    return {program.role: alive[program.worker] for program in programs}
