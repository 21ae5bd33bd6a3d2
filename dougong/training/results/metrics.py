"""A step's line of metrics.jsonl, but for what the hooks add to it."""

from __future__ import annotations

from typing import Any

from dougong.job.schema import Job
from dougong.parallel.plan import Plan, Worker
from dougong.training.results.reports import StepResult


def step_row(job: Job, plan: Plan, result: StepResult, step_s: float) -> dict[str, Any]:
    """`step_s`: seconds of the whole step on this worker. `skipped` stands in rows of steps without
    an update alone."""
    batch = job.batch
    tokens_of_lane = batch.microbatches * batch.microbatch_size * job.data.sequence_length
    tokens = tokens_of_lane * batch.lanes
    islands: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(w.island for w in plan.workers):
        workers = [w for w in plan.workers if w.island == name]
        islands[name] = _island_row(workers, result, step_s, tokens_of_lane)
    row = {
        "step": result.step,
        "loss": result.loss,
        "tokens": tokens,
        "step_s": step_s,
        "tokens_per_s": tokens / step_s,
        "grad_norm": result.grad_norm,
        "lr": result.rate,
        "islands": islands,
    }
    if result.is_skipped:
        row["skipped"] = True
    return row


def _island_row(
    workers: list[Worker], result: StepResult, step_s: float, tokens_of_lane: int
) -> dict[str, float]:
    """Mean seconds of an island's worker in messages and outside them, and the tokens per second of
    the island's lanes."""
    exchange_s = sum(result.exchange_s[w.rank] for w in workers) / len(workers)
    tokens = tokens_of_lane * sum(len(w.lanes) for w in workers)
    return {
        "compute_s": max(0.0, step_s - exchange_s),
        "exchange_s": exchange_s,
        "tokens_per_s": tokens / step_s,
    }
