"""Which program every worker of a job runs in a step. Imports no torch."""

from __future__ import annotations

from collections import Counter

from dougong.job.schema import Job
from dougong.parallel.plan import Plan, Role, Worker
from dougong.parallel.schedules.check import Alive, check
from dougong.parallel.schedules.operation import Program
from dougong.parallel.schedules.registry import make_programs

INTERLEAVED = ("zebra", "af_pipe")
"""Schedules in which a micro-batch begins a backward before the one before it has ended its own."""
ALIKE = 2
"""Workers of a role run the same program; a proof with so many of each holds for any number."""


def programs_of(job: Job, plan: Plan) -> list[Program]:
    """What every worker does in a step, by rank. `pipeline: auto`: in step where all workers have
    attention and experts, in stripes where they are apart. Raises `PlanError` for a schedule that
    is not made for these roles."""
    roles = {w.name: role_of(w) for w in plan.workers}
    return make_programs(pipeline_of(job, plan), num_sites(plan), job.batch.microbatches, roles)


def pipeline_of(job: Job, plan: Plan) -> str:
    """The schedule's name."""
    if job.pipeline != "auto":
        return job.pipeline
    return "colocated" if {role_of(w) for w in plan.workers} == {"both"} else "zebra"


def role_of(worker: Worker) -> Role:
    """What a worker really has: one of role attention may keep experts, too (`offload`)."""
    if worker.lanes and worker.num_experts:
        return "both"
    return "attention" if worker.lanes else "experts"


def num_sites(plan: Plan) -> int:
    """Experts calls in a forward."""
    return len(plan.workers[0].experts)


def prove(job: Job, plan: Plan) -> dict[Role, Alive]:
    """That the step is complete, in a legal order and free of deadlock; returns what a worker of
    each role keeps alive.

    Raises `PlanError` with worker, operation and position.
    """
    seen: Counter[Role] = Counter()
    chosen = []
    for program in programs_of(job, plan):
        seen[program.role] += 1
        if seen[program.role] <= ALIKE:
            chosen.append(program)
    alive = check(chosen, num_sites(plan), job.batch.microbatches)
    return {program.role: alive[program.worker] for program in chosen}
