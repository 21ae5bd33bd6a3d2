"""A step's line of metrics: figures by hand."""

from __future__ import annotations

import dataclasses

from dougong.parallel.plan import Plan
from dougong.training.results.metrics import step_row
from dougong.training.results.reports import StepResult
from tests.jobs import make_job, plan_for

BATCH = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}


def on_two_islands(plan: Plan) -> Plan:
    """The last worker stands on an island of its own."""
    *others, last = plan.workers
    return dataclasses.replace(plan, workers=(*others, dataclasses.replace(last, island="west")))


def test_figures_are_those_of_the_whole_job_and_of_each_island() -> None:
    job = make_job(batch=BATCH)
    plan = on_two_islands(plan_for(job, "BBE"))
    result = StepResult(7, 2.5, 0.75, 1e-3, (0.5, 1.0, 9.0), False)
    row = step_row(job, plan, result, step_s=2.0)
    tokens = 3 * 2 * 16
    assert row["islands"] == {
        "east": {"compute_s": 1.25, "exchange_s": 0.75, "tokens_per_s": tokens / 2.0},
        "west": {"compute_s": 0.0, "exchange_s": 9.0, "tokens_per_s": 0.0},
    }
    del row["islands"]
    assert row == {
        "step": 7,
        "loss": 2.5,
        "tokens": tokens,
        "step_s": 2.0,
        "tokens_per_s": tokens / 2.0,
        "grad_norm": 0.75,
        "lr": 1e-3,
    }
