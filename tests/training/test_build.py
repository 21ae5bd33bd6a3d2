"""The build chain: built anew in a living process, for another plan, a worker is as if it were fresh."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dougong.data.windows import open_data
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.exchange.channel import EmulatedLink
from dougong.parallel.execute.emulate import Emulation
from dougong.parallel.plan import Plan
from dougong.training.build import StepOptions, build_model, build_on_plan, emulation_of, rebuild
from dougong.training.forwards import Forwards
from dougong.training.replica import ModelBlueprint
from dougong.training.state import StartState, open_start
from dougong.training.step import Stepper
from tests.jobs import VOCAB, Rig, make_job, plan_for
from tests.processes import run_workers
from tests.stores import store_at
from tests.test_promise import state_of
from tests.training.running import Order, run, token_file

STEPS = 2
Found = tuple[list[str], int]
"""Losses, and the state that one worker owns, in one number."""


def train(blueprint: ModelBlueprint, plan: Plan, world: World, start: StartState) -> Found:
    """Two steps on a plan, in this process; its stepper is closed at the end."""
    stepper = rebuild(blueprint, plan, world, start, StepOptions())
    rig = Rig(blueprint.job, plan, stepper.parts.share.replica, stepper, world.rank)
    losses = [loss.hex() for loss in rig.run(STEPS)]
    stepper.close()
    return losses, state_of(rig)


def fresh(world: World, plan: Plan, job: Job) -> Found:
    return train(build_model(job, VOCAB, world.member.device), plan, world, StartState())


def joined_again(world: World, plan: Plan, port: int) -> World:
    """The same processes as the next generation, on another plan."""
    world.leave()
    attention = tuple(w.rank for w in plan.workers if w.lanes)
    member = dataclasses.replace(world.member, generation=2, attention=attention)
    return World.join(member, store_at(port, member.generation))


def after_another_life(world: World, plan: Plan, job: Job, roles: str, port: int) -> tuple[Found, Found]:
    """On the world's plan, then in another world on another plan, by one blueprint."""
    blueprint = build_model(job, VOCAB, world.member.device)
    first = train(blueprint, plan, world, StartState())
    later = plan_for(job, roles)
    second = train(blueprint, later, joined_again(world, later, port), StartState())
    return first, second


LIVES = [
    ("qwen3_moe", "float32", "BB", "AE"),
    ("longcat_flash", "bfloat16", "AE", "EB"),
    ("gpt_oss", "float32", "BE", "BB"),
]


@pytest.mark.parametrize(("family", "precision", "before", "after"), LIVES)
def test_a_worker_that_is_rebuilt_has_the_bits_of_a_fresh_one(
    family: str, precision: str, before: str, after: str
) -> None:
    job = make_job(family, precision=precision)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = run_workers(after_another_life, plan_for(job, before), job, after, store.port)
    assert [second for _, second in both] == run_workers(fresh, plan_for(job, after), job)
    for first, second in both:
        assert first[0] == second[0] and first[1] != second[1], "the same losses; what it owns is other tensors"


def test_a_blueprint_is_left_as_it_was() -> None:
    job = make_job("deepseek_v3", router={"bias_rate": 0.01, "global_loss": 0.1})
    blueprint = build_model(job, VOCAB, torch.device("cpu"))
    names, op = blueprint.names, blueprint.op
    first, second = (train(blueprint, plan_for(job), World.alone(), StartState()) for _ in range(2))
    assert first == second
    assert all(parameter.is_meta for parameter in blueprint.model.parameters())
    assert blueprint.names is names and blueprint.op is op
    assert all("forward" not in vars(site.module) for site in blueprint.sites), "only replicas are cut"


def from_a_checkpoint(world: World, plan: Plan, job: Job, roles: str, port: int, path: Path) -> list[Any]:
    """Step 3 on the world's plan, then, from the checkpoint again, steps 3 and 4 on another one."""
    blueprint = build_model(job, VOCAB, world.member.device)
    with open_start(job, blueprint.names, path) as start:
        assert start.step == 2
        stepper = rebuild(blueprint, plan, world, start, StepOptions())
    told(stepper, 3, plan, world)
    stepper.close()
    plan = plan_for(job, roles)
    world = joined_again(world, plan, port)
    with open_start(job, blueprint.names, path) as start:
        stepper = rebuild(blueprint, plan, world, start, StepOptions())
    return [told(stepper, step, plan, world) for step in (3, 4)]


def told(stepper: Stepper, step: int, plan: Plan, world: World) -> tuple[float, float]:
    job, replica = stepper.parts.share.blueprint.job, stepper.parts.share.replica
    forwards = Forwards(job, open_data(job, VOCAB), replica.model, plan.workers[world.rank].lanes, world.member.device)
    result = stepper.run(step, forwards.of_step(step))
    return result.loss, result.grad_norm


def test_a_worker_is_rebuilt_from_a_checkpoint(tmp_path: Path) -> None:
    data = {"tokens": str(token_file(tmp_path)), "sequence_length": 16}
    job = make_job(data=data, steps=4, checkpoint={"every": 2})
    whole = run(Order(job, "B", tmp_path / "whole"))
    expected = [(whole.rows[step]["loss"], whole.rows[step]["grad_norm"]) for step in (3, 4)]
    plan = plan_for(job, "BB")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = run_workers(from_a_checkpoint, plan, job, "AE", store.port, whole.committed[2])
    assert found == [expected] * 2


@pytest.mark.parametrize("roles", ["B", "AE", "BEA"])
def test_every_share_knows_what_all_workers_report(roles: str) -> None:
    """Every loss and every trained tensor is in one report. Nothing is sent, so one process can have all shares."""
    job = make_job(batch={"lanes": 3, "microbatches": 2, "microbatch_size": 1})
    plan = plan_for(job, roles)
    blueprint = build_model(job, VOCAB, torch.device("cpu"))
    shares = [build_on_plan(blueprint, plan, worker.rank, StartState()) for worker in plan.workers]
    forms = shares[0].forms
    assert all(share.forms == forms for share in shares)
    losses = [key for form in forms for key in form.losses]
    assert sorted(losses) == [(lane, microbatch) for lane in range(3) for microbatch in range(2)]
    for share, form in zip(shares, forms, strict=True):
        assert share.optimizer.names == form.squares == tuple(sorted(form.squares))
    alone = build_on_plan(blueprint, plan_for(job), 0, StartState())
    assert sorted(name for form in forms for name in form.squares) == list(alone.optimizer.names)


def test_an_island_that_pretends_is_emulated() -> None:
    slow = {"attention_ms": 2.0, "expert_ms_per_1k_tokens": 20.0, "link": {"latency_ms": 1.0}}
    job = make_job(islands=[{"name": "east", "accelerator": "cpu", "emulate": slow}])
    worker = plan_for(job).workers[0]
    assert emulation_of(job, worker) == Emulation(0.004, 0.00002, EmulatedLink(math.inf, 0.001)), "two lanes"
    assert emulation_of(make_job(), worker) is None
