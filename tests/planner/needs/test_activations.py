"""The walk along a program, against the bytes that operators really make and let go."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.models.memory.live_bytes import LiveBytes
from dougong.planner.needs.activations import StepActivations, unknown_activations
from dougong.planner.needs.terms import Term
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.training.start.preflight import inspect_only
from tests.jobs import make_job, make_rig

CONFIG = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip


def job_of(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "model": {"family": "qwen3_moe", "config": CONFIG}, "data": {"text": "stdlib", "sequence_length": 128},
    }  # fmt: skip
    return make_job(**(values | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pipeline": "zebra"},
        {"pipeline": "serial", "precision": "bfloat16"},
        {"recompute": "layers"},
        {"expert_tile": 16, "batch": {"lanes": 3, "microbatches": 2, "microbatch_size": 1}},
        {"combine": "at_experts"},
    ],
)
def test_a_step_takes_what_was_planned(changes: dict[str, Any]) -> None:
    job = job_of(**changes)
    inventory = inspect_only(job)
    plan = plan_job(job, inventory, seats_of_job(job.islands))
    planned = sum(StepActivations(job, inventory, plan).of(plan.workers[0]).values())
    rig = make_rig(job, plan)
    live = LiveBytes()
    forwards = rig.forwards(1)
    with live:
        rig.stepper.forward_backward(1, forwards)
    assert planned == pytest.approx(live.peak, rel=0.05)


def test_a_model_of_which_nothing_is_known_says_why() -> None:
    from dataclasses import replace

    from dougong.parallel.activations import Activations

    known = inspect_only(job_of())
    assert not list(unknown_activations(known))
    unknown = replace(known, activations=(Activations("cpu", (), "it asks"), Activations("cuda", (), "it asks")))
    assert list(unknown_activations(unknown)) == ["it asks"]


def test_layers_that_run_again_and_one_micro_batch_at_a_time_take_less() -> None:
    def activations(**changes: Any) -> int:
        job = job_of(**changes)
        inventory = inspect_only(job)
        plan = plan_job(job, inventory, seats_of_job(job.islands))
        return StepActivations(job, inventory, plan).of(plan.workers[0])[Term.ACTIVATIONS]

    assert activations(recompute="layers") < activations() / 2
    assert activations(pipeline="serial") < 0.7 * activations(pipeline="zebra")
