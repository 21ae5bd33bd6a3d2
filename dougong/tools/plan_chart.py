"""The step of a plan as a chart in plain text: who computes what when, and what travels
meanwhile."""

from __future__ import annotations

from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan
from dougong.parallel.schedules.gantt import draw
from dougong.parallel.schedules.operation import Kind, Operation
from dougong.parallel.schedules.simulate import Cost, simulate
from dougong.planner.plan_job import speed_of
from dougong.planner.programs import num_sites, pipeline_of, programs_of, prove

BACKWARD = 2.0
"""A backward's time over a forward's. The experts compute its half for the weights apart."""


def chart_lines(job: Job, plan: Plan, inventory: Inventory, width: int) -> list[str]:
    """The schedule's name, what it keeps alive, and the step drawn with the job's emulated times or
    speeds."""
    head = f"pipeline {pipeline_of(job, plan)}, {job.batch.microbatches} micro-batches"
    kept = [
        f"{role} keep {a.segments} segments and {a.waves} waves"
        for role, a in prove(job, plan).items()
    ]
    trace = simulate(programs_of(job, plan), cost_of(job, plan, inventory))
    emulated = any(island.emulate for island in job.islands)
    times = (
        "emulated times"
        if emulated
        else "at speed 1 a lane's segment and its experts take one second each"
    )
    return [f"{head}: {', '.join(kept)} alive at most; {times}", draw(trace, width)]


def cost_of(job: Job, plan: Plan, inventory: Inventory) -> Cost:
    """Seconds of every operation of every worker: by `emulate`, or relative to each other by
    `speed`."""
    islands = {island.name: island for island in job.islands}
    workers = {worker.name: worker for worker in plan.workers}
    rows = (
        job.batch.microbatch_size
        * job.data.sequence_length
        * inventory.experts_per_token
        * plan.num_lanes
    )

    def cost(name: str, operation: Operation) -> float:
        worker = workers[name]
        island, speed = islands[worker.island], speed_of(islands[worker.island])
        if operation.kind.sends is not None:
            return island.emulate.link.latency_ms / 1e3 if island.emulate else 0.0
        if operation.kind in (Kind.FORWARD, Kind.BACKWARD):
            times = BACKWARD if operation.kind is Kind.BACKWARD else 1.0
            return times * len(worker.lanes) / speed.attention
        share = len(worker.experts[operation.site]) / plan.num_experts
        amount = rows / 1000 if island.emulate else plan.num_lanes
        return share * amount / speed.experts

    return cost


def fits(plan: Plan, job: Job) -> bool:
    """Whether a chart of the plan can be read: not more operations than a screen has room for."""
    return len(plan.workers) * num_sites(plan) * job.batch.microbatches <= 4096
