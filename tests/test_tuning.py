"""What is frozen stays as it is, adapters are learnt as peft learns them, on every layout with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.disk import digest
from dougong.checkpoint.merge import expected_tensors
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model
from dougong.ops.adapter_names import is_adapter
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.planner.needs.holdings import checkpoint_bytes, holdings
from dougong.tools.export import export_adapters, export_merged
from tests.families import config_values
from tests.jobs import VOCAB, make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.reference import reference_model, train_plainly
from tests.tiny import tiny_values
from tests.training.running import Order, digests, run
from tests.tuned_runs import BASE, adapted_job, base_folder, peft_of, saved
from transformers import AutoModelForCausalLM

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
    found = {name: digest(tensor.numpy().tobytes()) for name, tensor in rig.replica.masters.items()}
    return [(step.loss, step.grad_norm) for step in steps], found


def run_layout(job: Job, layout: str = "B") -> Found:
    if layout == "B":
        return trained(World.alone(), plan_for(job), job)
    results = run_workers(trained, plan_for(job, layout), job)
    merged: dict[str, str] = {}
    for losses, own in results:
        assert losses == results[0][0]
        merged |= own
    return results[0][0], merged


def first_digests(job: Job) -> dict[str, str]:
    masters = make_rig(job).replica.masters
    return {name: digest(tensor.numpy().tobytes()) for name, tensor in masters.items()}


@pytest.mark.parametrize("patterns", FROZEN.values(), ids=FROZEN)
def test_what_is_frozen_stays_as_it_is_and_the_rest_learns_as_in_a_plain_loop(patterns: list[str]) -> None:
    job = tuned_job(model={"freeze": patterns})
    losses, after = run_layout(job)
    before, rig = first_digests(job), make_rig(job)
    is_trained = dict.fromkeys(rig.stepper.parts.share.forms[0].squares, True)
    moved = {name for name in after if after[name] != before[name]}
    assert moved <= set(is_trained) and 0 < len(moved) < len(after)
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


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_adapters_learn_as_those_of_peft_in_a_plain_loop(family: str, tmp_path: Path) -> None:
    base_folder(tmp_path, family)
    job = adapted_job(tmp_path)
    losses = make_rig(job).run(3)
    plain = AutoModelForCausalLM.from_pretrained(job.model.path, experts_implementation="eager")
    theirs = train_plainly(job, peft_of(job, plain), 3)
    assert losses[0] == pytest.approx(theirs[0], rel=1e-6)
    assert losses[1:] == pytest.approx(theirs[1:], rel=2e-4) and len(set(losses)) == 3


WAYS: dict[str, dict[str, Any]] = {
    "dense: shard": {"dense": "shard", "pipeline": "zebra"},
    "recompute": {"recompute": "layers"},
    "half moments": {"optimizer": {"name": "adamw", "lr": 1e-2, "state": "bfloat16"}},
    "audited": {"fault": {"audit": "all"}, "precision": "bfloat16"},
    "groups": {
        "optimizer": {"name": "adamw", "lr": 1e-2, "groups": [{"match": "*lora_B*", "lr": 1e-3, "weight_decay": 0.2}]}
    },
}


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_runs_with_adapters_go_on_with_the_same_bits(changes: dict[str, Any], tmp_path: Path) -> None:
    """On other layouts, from a checkpoint that was saved on another one."""
    base_folder(tmp_path)
    job = adapted_job(tmp_path, **changes)
    whole = run(Order(adapted_job(tmp_path, **{**changes, "dense": "copy"}), "B", tmp_path / "whole"))
    assert not whole.errors and list(whole.rows) == [1, 2, 3, 4]
    found = run(Order(job, "BB", tmp_path / "found"))
    assert not found.errors and found.series() == whole.series()
    assert {s: digests(path) for s, path in found.committed.items()} == {
        s: digests(path) for s, path in whole.committed.items()
    }
    later = run(Order(job, "AE", tmp_path / "later", found.committed[2], generation=2))
    assert not later.errors and later.series() == {s: values for s, values in whole.series().items() if s > 2}
    assert digests(later.committed[4]) == digests(whole.committed[4])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frozen_routers_are_balanced_with_the_same_bits(layout: str) -> None:
    """Also where nothing before the first of them is trained, so that the loss reaches nothing there."""
    for model in ({"lora": {"rank": 2}}, {"freeze": ["*", "!*.layers.2.*"]}):
        job = tuned_job(model=model, router={"global_loss": 0.5})
        assert run_layout(job, layout) == run_layout(job)
        assert run_layout(job)[0] != run_layout(tuned_job(model=model))[0]


def test_a_run_that_learns_nothing_ends_with_the_reason(tmp_path: Path) -> None:
    """jamba multiplies by this weight itself, so that its adapter never takes part."""
    model = {"family": "jamba", "config": tiny_values("jamba"), "lora": {"rank": 2, "targets": ["*dt_proj.weight"]}}
    found = run(Order(adapted_job(tmp_path, model=model), "B", tmp_path / "run"))
    ((_, words),) = found.errors.values()
    assert "the loss reaches nothing of what is trained: model" in words and "model.lora.targets" in words


def test_a_run_goes_on_from_the_adapters_of_another(tmp_path: Path) -> None:
    """Its first loss is that of the model into which they were merged."""
    checkpoint = saved(tmp_path)
    export_adapters(checkpoint, tmp_path / "adapter")
    export_merged(checkpoint, tmp_path / "merged", "float32")
    lora = {"rank": 3, "alpha": 6.0, "path": str(tmp_path / "adapter")}
    first = make_rig(adapted_job(tmp_path, model={"path": str(tmp_path / BASE), "lora": lora})).run(1)
    merged = make_rig(adapted_job(tmp_path, model={"path": str(tmp_path / "merged")})).run(1)
    plain = make_rig(adapted_job(tmp_path, model={"path": str(tmp_path / BASE)})).run(1)
    assert first == pytest.approx(merged, rel=1e-6) and abs(first[0] - plain[0]) > 1e-3


def test_what_is_frozen_takes_no_memory_of_an_optimizer(tmp_path: Path) -> None:
    """Neither in the plan nor on the worker."""
    base_folder(tmp_path)
    for model in ({"lora": {"rank": 3}}, {"freeze": ["*", "!*.layers.0.mlp.experts.*"]}):
        job = adapted_job(tmp_path, model={"path": str(tmp_path / BASE)} | model, precision="bfloat16")
        plan, rig = plan_for(job), make_rig(job)
        rig.run(1)
        inventory = inspect_model(job.model, VOCAB)
        (held,) = holdings(job, inventory, plan)
        optimizer = rig.stepper.optimizer
        moments = sum(t.numel() for kind, _, t in optimizer.state() if kind != "step") * 4
        assert moments == held.moments and set(optimizer.names) == set(rig.stepper.parts.share.forms[0].squares)
        gradients = 0
        for experts in rig.stepper.parts.share.shard.gradients:
            for own in experts.values():
                gradients += 4 * sum(tensor.numel() for tensor in own.values())
        dense = sum(tensor.numel() for name, tensor in rig.replica.leaves)
        assert gradients <= held.gradients < gradients + 2 * 4 * (dense + 128 * len(inventory.tensors))
        copies = sum(t.numel() * t.element_size() for _, t in rig.replica.copies)
        assert copies <= held.weights < 1.05 * copies
        assert checkpoint_bytes(job, inventory) == 4 * inventory.num_parameters + moments
        expected = {(s.group, s.name) for s in expected_tensors(inventory, ["exp_avg"])}
        assert {("exp_avg", name) for name in optimizer.names} == {key for key in expected if key[0] == "exp_avg"}
