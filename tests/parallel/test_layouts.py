"""The promise: the job's bits do not depend on the layout. Weights and optimizer state, not only losses."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
import torch
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.jobs import make_job, make_rig, plan_for
from tests.processes import run_workers


def state_digests(world: World, plan: Plan, job: Job, steps: int) -> tuple[list[float], dict[str, str]]:
    """Train a few steps; losses and a digest of every owned tensor and its optimizer state."""
    rig = make_rig(job, plan, world)
    losses = rig.run(steps)
    tensors: dict[str, Any] = dict(rig.replica.masters)
    tensors |= {f"{kind}/{name}": value for kind, name, value in rig.stepper.optimizer.state()}
    return losses, {
        n: hashlib.sha256(t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for n, t in tensors.items()
    }


def run_layout(job: Job, layout: str | Plan, steps: int = 3) -> tuple[list[float], dict[str, str]]:
    plan = plan_for(job, layout) if isinstance(layout, str) else layout
    results = run_workers(state_digests, plan, job, steps)
    assert all(losses == results[0][0] for losses, _ in results), "workers disagree on the loss"
    merged: dict[str, str] = {}
    for _, digests in results:
        assert not merged.keys() & digests.keys(), "a tensor has two owners"
        merged |= digests
    return results[0][0], merged


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bits_hold_on_uneven_and_disaggregated_layouts(precision: str) -> None:
    job = make_job("deepseek_v3", precision=precision, batch={"lanes": 5, "microbatches": 2, "microbatch_size": 1})
    reference = run_layout(job, "B")
    for roles in ("BB", "AEE", "ABE"):
        assert run_layout(job, roles) == reference, roles


def test_bits_hold_where_every_site_has_its_experts_elsewhere() -> None:
    """Attention workers keep experts, another number at each site; a worker has none, another all of a site."""
    job = make_job("deepseek_v3", batch={"lanes": 3, "microbatches": 2, "microbatch_size": 1})
    plan = plan_for(job, "AAE")
    shares = (((0, 1), ()), ((2,), (0, 1, 2, 3, 4, 5, 6, 7)), ((3, 4, 5, 6, 7), ()))
    workers = tuple(dataclasses.replace(w, experts=own) for w, own in zip(plan.workers, shares, strict=True))
    assert run_layout(job, dataclasses.replace(plan, workers=workers)) == run_layout(job, "B")
