"""The bytes of a step: what is planned is what is sent, and where routing decides, what even routing would send."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model, inventory_of
from dougong.parallel import pieces
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Inventory, Plan
from dougong.parallel.traffic import Flow
from dougong.training.build import LedgerStart, StepOptions
from dougong.training.memory.state_memory import StateMemory
from dougong.training.state import state_of
from dougong.training.traffic import TrafficMeter, flows_of_step
from tests.families import config_values
from tests.jobs import VOCAB, Rig, make_job, make_rig, plan_for
from tests.parallel.test_traffic import amount
from tests.processes import run_workers

CASES: dict[str, dict[str, Any]] = {
    "layout": {},
    "half precision": {"precision": "bfloat16", "router": {"global_loss": 0.1}},
    "summed at the experts": {"combine": "at_experts", "determinism": "run"},
    "a loss of sequences": {"router": {"sequence_loss": 0.1}},
    "dense tensors come and go": {"dense": "shard", "precision": "bfloat16"},
}
Sent = list[list[list[int]]]
"""Of one worker: bytes, then messages, by kind and peer."""


def job_of(case: str, choices: int) -> Job:
    """Every token chooses `choices` of four experts."""
    family = "deepseek_v3" if case == "a loss of sequences" else "qwen3_moe"
    four = {"num_experts": 4} if family == "qwen3_moe" else {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    config = config_values(family, num_experts_per_tok=choices, **four)
    batch = {"lanes": 4, "microbatches": 2, "microbatch_size": 1}
    return make_job(family, **({"model": {"family": family, "config": config}, "batch": batch} | CASES[case]))


def inventory(job: Job) -> Inventory:
    return inspect_model(job.model, VOCAB)


def rig_of(world: World, plan: Plan, job: Job, folder: Path) -> Rig:
    """A worker that has done its first step: from then on every step's snapshot has the same tensors."""
    ledger = LedgerStart(folder / str(world.size), None) if job.is_deterministic else None
    memory = StateMemory(job.fault.snapshots)
    rig = make_rig(job, plan, world, StepOptions(ledger=ledger, memory=memory))
    memory.follow(world, plan, lambda: state_of(rig.replica, rig.stepper.optimizer), 0)
    rig.stepper.run(1, rig.forwards(1))
    return rig


def close(rig: Rig) -> None:
    memory = rig.stepper.parts.memory
    assert memory is not None
    memory.before_update()


def step_of(world: World, plan: Plan, roles: str, jobs: list[Job], folder: Path) -> list[Sent]:
    found = []
    for number, job in enumerate(jobs):
        rig = rig_of(world, plan_for(job, roles), job, folder / str(number))
        before = np.stack([world.sent.num_bytes, world.sent.num_messages])
        rig.stepper.run(2, rig.forwards(2))
        found.append((np.stack([world.sent.num_bytes, world.sent.num_messages]) - before).tolist())
        close(rig)
    return found


def planned(flows: list[Flow], kind: TrafficKind, source: int, target: int) -> float:
    return sum(amount(flow, [source], [target]) for flow in flows if flow.kind is kind)


@pytest.mark.parametrize("roles", ["BB", pytest.param("AABE", marks=pytest.mark.slow)])
def test_a_step_sends_what_was_planned(roles: str, tmp_path: Path) -> None:
    """Every token goes to every expert, so that routing decides nothing: to the byte, from each to each."""
    jobs = [job_of(case, choices=4) for case in CASES]
    results = run_workers(step_of, plan_for(jobs[0], roles), roles, jobs, tmp_path)
    for number, (case, job) in enumerate(zip(CASES, jobs, strict=True)):
        flows = flows_of_step(job, inventory(job), plan_for(job, roles))
        assert all(flow.is_exact for flow in flows if flow.kind not in (TrafficKind.COUNTS, TrafficKind.SUMS))
        for source, target in itertools.product(range(len(roles)), repeat=2):
            for kind in TrafficKind:
                sent = results[source][number][0][kind.number][target]
                assert sent == pytest.approx(planned(flows, kind, source, target), abs=1), (case, kind, source, target)


def step_on(world: World, plan: Plan, job: Job, folder: Path) -> list[list[int]]:
    rig = rig_of(world, plan, job, folder)
    before = world.sent.num_bytes.copy()
    rig.stepper.run(2, rig.forwards(2))
    sent: list[list[int]] = (world.sent.num_bytes - before).tolist()
    close(rig)
    return sent


@pytest.mark.parametrize("case", ["layout", "dense tensors come and go", "summed at the experts"])
def test_so_does_one_of_tensors_in_pieces(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_NUMEL", 512)
    job = job_of(case, choices=4)
    plan = plan_for(job, "BB")
    assert len(pieces.cut_tensors(plan.owners)) > 10
    flows, results = flows_of_step(job, inventory(job), plan), run_workers(step_on, plan, job, tmp_path)
    for source, target in ((0, 1), (1, 0)):
        for kind in TrafficKind:
            assert results[source][kind.number][target] == pytest.approx(planned(flows, kind, source, target), abs=1), (
                kind
            )


def test_even_routing_is_expected(tmp_path: Path) -> None:
    """A few tokens choose two of four: rows are as many as planned, and the tokens that cross about as many."""
    roles, job = "AEE", job_of("layout", choices=2)
    results = run_workers(step_of, plan_for(job, roles), roles, [job], tmp_path)
    flows = flows_of_step(job, inventory(job), plan_for(job, roles))
    assert not any(flow.is_exact for flow in flows if flow.kind is TrafficKind.ROWS)
    for kind in TrafficKind:
        sent = sum(sum(of[0][0][kind.number]) for of in results)
        everybody = range(len(roles))
        due = sum(amount(flow, everybody, everybody) for flow in flows if flow.kind is kind)
        about = kind in (TrafficKind.ROWS, TrafficKind.OUTPUT_GRADIENTS)
        assert sent == pytest.approx(due, rel=0.25 if about else 1e-3), kind


def meter_of(world: World, plan: Plan, job: Job, folder: Path) -> list[dict[str, Any]]:
    rig = rig_of(world, plan, job, folder)
    blueprint = rig.stepper.parts.share.blueprint
    model = inventory_of(blueprint.config, blueprint.model, blueprint.sites)
    assert model == replace(inventory(job), attention=model.attention)
    meter = TrafficMeter(job, model, plan, world)
    rows = []
    for step in (2, 3, 4):
        with meter.step():
            rig.stepper.run(step, rig.forwards(step))
        world.barrier()  # belongs to no step
        if step > 2:
            rows.append(meter.row())
    close(rig)
    return rows


def test_the_mean_step_stands_beside_the_plan(tmp_path: Path) -> None:
    islands = [{"name": "east", "accelerator": "cpu"}, {"name": "west", "accelerator": "cpu", "role": "experts"}]
    job = job_of("layout", choices=4).model_copy(update={"islands": make_job(islands=islands).islands})
    plan = plan_for(job, "BE")
    first, second = run_workers(meter_of, plan, job, tmp_path)
    assert first == second and [row["traffic"]["steps"] for row in first] == [2, 1]
    links = first[0]["traffic"]["links"]
    assert list(links) == ["east > east"]  # both workers of the plan are of one island
    of_link = links["east > east"]
    assert of_link["sent"] == pytest.approx(of_link["planned"], rel=1e-3)
    assert of_link["messages"] > 50 and links == first[1]["traffic"]["links"]


def test_a_worker_alone_sends_nothing(tmp_path: Path) -> None:
    job = job_of("layout", choices=2)
    (row,) = {str(row) for row in meter_of(World.alone(), plan_for(job, "B"), job, tmp_path)}
    assert row == "{}"
