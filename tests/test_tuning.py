"""What is frozen stays as it is, adapters are learnt as peft learns them, on every layout with the same bits."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.checkpoint.disk import digest
from dougong.job.schema import Job
from dougong.ops.adapter_names import is_adapter
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.families import config_values
from tests.jobs import make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.reference import reference_model, train_plainly

LAYOUTS = ("BBB", "AEE")
FROZEN = {
    "experts": ["*.experts.*"],
    "all but experts": ["*", "!*.experts.*"],
    "matrices in": ["*.gate_up_proj"],
    "the first layer and all before": ["*embed*", "*.layers.0.*"],
    "all but the head": ["*", "!lm_head*"],
    "all but the router": ["*", "!*.mlp.gate.weight"],
    "all but the first layer": ["*", "!*layers.0.*"],
}
Found = tuple[list[tuple[float, float]], dict[str, str]]


def tuned_job(family: str = "qwen3_moe", model: dict[str, Any] | None = None, **changes: Any) -> Job:
    return make_job(
        model={"family": family, "config": config_values(family)} | (model or {}),
        batch={"lanes": 3, "microbatches": 2, "microbatch_size": 2},
        **changes,
    )


def trained(world: World, plan: Plan, job: Job) -> Found:
    """Three steps: losses and gradients' norms, and a digest of every tensor that this worker owns."""
    rig = make_rig(job, plan, world)
    steps = [rig.stepper.run(step, rig.forwards(step)) for step in range(1, 4)]
    digests = {name: digest(tensor.numpy().tobytes()) for name, tensor in rig.replica.masters.items()}
    return [(step.loss, step.grad_norm) for step in steps], digests


def run_layout(job: Job, layout: str = "B") -> Found:
    if layout == "B":
        return trained(World.alone(), plan_for(job), job)
    results = run_workers(trained, plan_for(job, layout), job)
    merged: dict[str, str] = {}
    for losses, digests in results:
        assert losses == results[0][0]
        merged |= digests
    return results[0][0], merged


def first_digests(job: Job) -> dict[str, str]:
    masters = make_rig(job).replica.masters
    return {name: digest(tensor.numpy().tobytes()) for name, tensor in masters.items()}


@pytest.mark.parametrize("patterns", FROZEN.values(), ids=FROZEN)
def test_what_is_frozen_stays_as_it_is_and_the_rest_learns_as_in_a_plain_loop(patterns: list[str]) -> None:
    job = tuned_job(model={"freeze": patterns})
    losses, digests = run_layout(job)
    before, rig = first_digests(job), make_rig(job)
    is_trained = dict.fromkeys(rig.stepper.parts.share.forms[0].squares, True)
    moved = {name for name in digests if digests[name] != before[name]}
    assert moved <= set(is_trained) and 0 < len(moved) < len(digests)
    model: Any = reference_model(job)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in is_trained or f"{name}[0]" in is_trained)
    for ours, plain in zip(losses, train_plainly(job, model, 3), strict=True):
        assert ours[0] == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("patterns", FROZEN.values(), ids=FROZEN)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_frozen_jobs_have_the_same_bits_on_every_layout(patterns: list[str], layout: str) -> None:
    job = tuned_job(model={"freeze": patterns})
    assert run_layout(job, layout) == run_layout(job)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_have_the_same_bits_on_every_layout(layout: str, precision: str) -> None:
    job = tuned_job(model={"lora": {"rank": 4}}, precision=precision)
    alone = run_layout(job)
    assert run_layout(job, layout) == alone
    before = first_digests(job)
    moved = {name for name in before if before[name] != alone[1][name]}
    assert moved and all(map(is_adapter, moved))
