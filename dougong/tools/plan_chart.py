"""The step of a plan as a chart in plain text: who computes what when, and what travels
meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Hashable

from dougong.job.schema import Island, Job
from dougong.parallel.plan import Inventory, Plan
from dougong.parallel.schedules.gantt import draw
from dougong.parallel.schedules.operation import Kind, Operation
from dougong.parallel.schedules.simulate import Alike, Cost, simulate
from dougong.planner.needs.programs import num_sites, pipeline_of, programs_of, prove
from dougong.planner.plan_job import speed_of

DENSE = {Kind.FORWARD: 1.0, Kind.BACKWARD: 2.0}
"""A lane's segment forward and backward, over a forward's time. The experts compute the half of
their backward that is for the weights apart."""
MOST_OPERATIONS = 4096
"""What a screen has room for."""


def chart_lines(job: Job, plan: Plan, inventory: Inventory, width: int) -> list[str]:
    """The schedule's name, what it keeps alive, and the step drawn in `width` columns: in seconds
    where the job says how fast its islands are, else in parts of the step."""
    in_seconds = knows_seconds(job)
    head = f"pipeline {pipeline_of(job, plan)}, {job.batch.microbatches} micro-batches"
    cost, alike = cost_of(job, plan, inventory), alike_in(plan)
    trace = simulate(programs_of(job, plan), cost, alike=alike)
    first = f"{head}: {_kept_alive(job, plan)} alive at most"
    return [first, _times_words(job), draw(trace, width, in_seconds)]


def knows_seconds(job: Job) -> bool:
    """Whether every island's speed is known: by `emulate`, or by `speed` as `dougong calibrate`
    measures it."""
    return all(island.speed or island.emulate for island in job.islands)


def _times_words(job: Job) -> str:
    """What the chart's times are."""
    if not knows_seconds(job):
        return (
            "a step as parts of its time: no island's speed is known, so a lane's segment and its "
            "experts are drawn as equally long, and messages as nothing"
        )
    if any(island.emulate for island in job.islands):
        return "a step in emulated time"
    return "a step in the seconds of `speed` (`dougong calibrate` measures it), without messages"


def _kept_alive(job: Job, plan: Plan) -> str:
    words = []
    for role, alive in prove(job, plan).items():
        words.append(f"{role} keep {alive.segments} segments and {alive.waves} waves")
    return ", ".join(words)


def cost_of(job: Job, plan: Plan, inventory: Inventory) -> Cost:
    """Seconds of every operation of every worker, by `emulate` or `speed`; relative to each other
    where an island has neither."""
    islands = {island.name: island for island in job.islands}
    workers = {worker.name: worker for worker in plan.workers}
    num_tokens = job.batch.microbatch_size * job.data.sequence_length * plan.num_lanes
    num_rows = num_tokens * inventory.experts_per_token
    in_seconds = knows_seconds(job)

    def cost(name: str, operation: Operation) -> float:
        worker = workers[name]
        island = islands[worker.island]
        speed = speed_of(island)
        if operation.kind.sends is not None:
            return _latency_s(island)
        if operation.kind in DENSE:
            return DENSE[operation.kind] * len(worker.lanes) / speed.attention
        share = len(worker.experts[operation.site]) / plan.num_experts
        # Speeds of experts are thousands of rows a second; without any, a lane's are one.
        amount = num_rows / 1000 if in_seconds else plan.num_lanes
        return share * amount / speed.experts

    return cost


def alike_in(plan: Plan) -> Alike:
    """Who of a plan's workers costs the same as whom: those of an island with as many lanes, and as
    many experts of each site."""
    kinds: dict[str, Hashable] = {}
    for worker in plan.workers:
        num_experts = tuple(map(len, worker.experts))
        kinds[worker.name] = worker.island, len(worker.lanes), num_experts
    return kinds.__getitem__


def _latency_s(island: Island) -> float:
    return island.emulate.link.latency_ms / 1e3 if island.emulate else 0.0


def fits(plan: Plan, job: Job) -> bool:
    """Whether a chart of the plan can be read: not more operations than a screen has room for,
    where neighbours that are alike share a line."""
    alike = alike_in(plan)
    num_lines = sum(1 for _ in itertools.groupby(plan.workers, lambda worker: alike(worker.name)))
    return num_lines * num_sites(plan) * job.batch.microbatches <= MOST_OPERATIONS
