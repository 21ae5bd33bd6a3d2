"""Which program every worker of a job runs in a step. Imports no torch."""

from __future__ import annotations

from collections import Counter

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
    in stripes where they are apart."""
    if job.pipeline != "auto":
        return job.pipeline
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
    chosen = []
    for program in programs_of(job, plan):
        if num_chosen[program.role] < ALIKE:
            num_chosen[program.role] += 1
            chosen.append(program)
    alive = check(chosen, num_sites(plan), job.batch.microbatches)
    return {program.role: alive[program.worker] for program in chosen}
