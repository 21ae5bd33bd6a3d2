"""Attention and experts on different workers: every loss and gradient is that of one worker, bit by bit, for any number
of workers on each side, under every schedule, for any number of micro-batches."""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import Any

import pytest
from dougong.job.schema import Job
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.parallel.dispatch.table import share_bytes
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from dougong.training.replica import DTYPES
from tests.families import config_values
from tests.jobs import Rig, make_job, make_rig, plan_for
from tests.parallel.dispatch.traffic import Traffic, Widths, bytes_of
from tests.parallel.sharing import share_weights
from tests.processes import run_workers

FAMILIES = ("qwen3_moe", "deepseek_v3", "gpt_oss", "longcat_flash")
PIPELINES = ("serial", "zebra", "af_pipe")
GRID = [(m, n) for m in range(1, 5) for n in range(1, 5) if m + n <= 6]

CALL_KINDS = (*(TrafficKind(kind.value) for kind in MessageKind), TrafficKind.SIZES)
"""What experts' calls send."""

Case = tuple[str, int, str]
"""(family, micro-batches, pipeline)."""
Found = tuple[dict[tuple[int, int], str], dict[str, str]]
"""Losses by (lane, micro-batch) and digests of gradients by tensor, of what one worker has."""


def job_of(case: Case, **changes: Any) -> Job:
    family, microbatches, pipeline = case
    return make_job(
        family,
        model={
            "family": family,
            "config": config_values(family, num_hidden_layers=2 * (family == "longcat_flash") + 2),
        },
        batch={"lanes": 4, "microbatches": microbatches, "microbatch_size": 1},
        data={"text": "stdlib", "sequence_length": 8},
        pipeline=pipeline,
        **changes,
    )


def step_of(rig: Rig) -> Found:
    """One step's losses and gradients, before anything is updated."""
    found = rig.stepper.gradients(1, rig.forwards(1))
    losses = {key: loss.hex() for key, loss in found.losses.items()}
    return losses, {n: hashlib.blake2b(g.numpy().tobytes()).hexdigest() for n, g in found.tensors.items()}


def steps_of(world: World, plan: Plan, roles: str, cases: list[Case]) -> list[Found]:
    return [step_of(make_rig(job_of(case), plan_for(job_of(case), roles), world)) for case in cases]


def on_layout(roles: str, cases: list[Case]) -> list[Found]:
    """Per case, what all workers of a layout found together."""
    results = []
    for workers in zip(*run_workers(steps_of, plan_for(job_of(cases[0]), roles), roles, cases), strict=True):
        losses = {key: loss for found, _ in workers for key, loss in found.items()}
        gradients = {name: digest for _, found in workers for name, digest in found.items()}
        assert len(gradients) == sum(len(found) for _, found in workers), "a tensor has two owners"
        results.append((losses, gradients))
    return results


@functools.cache
def colocated(family: str, microbatches: int) -> Found:
    """On one worker, in step."""
    return step_of(make_rig(job_of((family, microbatches, "colocated"))))


def check(roles: str, cases: list[Case]) -> None:
    for case, found in zip(cases, on_layout(roles, cases), strict=True):
        assert found == colocated(case[0], case[1]), (roles, case)
        assert len(found[0]) == 4 * case[1]


@pytest.mark.parametrize(
    ("roles", "cases"),
    [
        ("AE", [("qwen3_moe", 1, "serial"), ("gpt_oss", 3, "af_pipe"), ("longcat_flash", 2, "zebra")]),
        ("AAAEE", [("deepseek_v3", 3, "zebra"), ("qwen3_moe", 2, "af_pipe")]),
        # One projection twice in a layer.
        ("AEE", [("zaya", 3, "zebra"), ("zaya", 2, "af_pipe")]),
        ("AEEE", [("longcat_flash", 3, "af_pipe"), ("deepseek_v3", 4, "serial"), ("gpt_oss", 2, "zebra")]),
        ("ABE", [("deepseek_v3", 2, "zebra"), ("qwen3_moe", 3, "af_pipe")]),
        ("BB", [("qwen3_moe", 2, "colocated"), ("deepseek_v3", 3, "zebra")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_dozen_layouts_and_schedules(roles: str, cases: list[Case]) -> None:
    check(roles, cases)


def sharing_steps(world: World, plan: Plan, roles: str, pipelines: tuple[str, ...]) -> list[dict[str, str]]:
    """Two steps of a model that uses weights in several segments, some of them only where the data says so: what this
    worker then has of weights and moments."""
    found = []
    for pipeline in pipelines:
        job = job_of(("qwen3_moe", 3, pipeline), optimizer={"lr": 1e-2, "weight_decay": 0.5})
        job.model.config["num_hidden_layers"] = 3
        rig = make_rig(job, plan_for(job, roles), world)
        choices = share_weights(rig.replica.model)
        rig.run(2)
        assert not rig.plan.workers[rig.rank].lanes or len(set(choices)) == 2, "some micro-batches use it, some do not"
        state = {("master", name): value for name, value in rig.replica.masters.items()}
        state |= {(kind, name): value for kind, name, value in rig.stepper.optimizer.state()}
        found.append({str(key): value.numpy().tobytes().hex() for key, value in state.items()})
    return found


def test_weights_used_in_several_segments_have_the_same_bits_on_any_layout_and_schedule() -> None:
    """Also where micro-batches use them in unlike segments, so that one's gradient is complete before an earlier
    one's; and where only some lanes reach a tensor."""
    plan, apart = (plan_for(job_of(("qwen3_moe", 3, "serial")), roles) for roles in ("B", "ABE"))
    (expected,) = sharing_steps(World.alone(), plan, "B", ("colocated",))
    for of_workers in zip(*run_workers(sharing_steps, apart, "ABE", PIPELINES), strict=True):
        assert {key: value for of_worker in of_workers for key, value in of_worker.items()} == expected


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "experts"), GRID)
def test_the_whole_grid(attention: int, experts: int) -> None:
    """Every family, 1 to 4 micro-batches, every schedule."""
    check("A" * attention + "E" * experts, list(itertools.product(FAMILIES, range(1, 5), PIPELINES)))


def emulated(world: World, plan: Plan, roles: str, case: Case) -> Found:
    """The same step on devices that pretend to be slow and unlike."""
    slow = {"attention_ms": 2.0, "expert_ms_per_1k_tokens": 20.0, "link": {"latency_ms": 1.0, "bandwidth_mb_s": 10.0}}
    job = job_of(case, islands=[{"name": "east", "accelerator": "cpu", "emulate": slow}])
    return step_of(make_rig(job, plan_for(job, roles), world))


def test_emulated_time_changes_no_bit() -> None:
    case: Case = ("deepseek_v3", 2, "zebra")
    first, second = run_workers(emulated, plan_for(job_of(case), "AE"), "AE", case)
    assert (first[0], first[1] | second[1]) == colocated("deepseek_v3", 2)


def traffic_of(world: World, plan: Plan, roles: str, combine: str) -> tuple[dict[str, int], list[Traffic]]:
    """Bytes that this worker sent in one step, and by the formula what its lanes sent and were sent."""
    job = job_of(("longcat_flash", 2, "zebra"), combine=combine)
    rig = make_rig(job, plan_for(job, roles), world)
    shares: list[tuple[int, list[int]]] = []
    parts = rig.stepper.parts
    begin_call = parts.share.dispatcher.begin_call

    def watched(*arguments: object) -> object:
        sent = begin_call(*arguments)  # type: ignore[arg-type]
        serving, site = [w for w in rig.plan.workers if w.num_experts], sent.key[0]  # type: ignore[attr-defined]
        for crossing in sent.crossings.values():  # type: ignore[attr-defined]
            counts = crossing.routing.counts_E.split([len(worker.experts[site]) for worker in serving])
            for worker, num_tokens, own in zip(serving, crossing.tokens_D, counts, strict=True):
                if worker.rank != world.rank:
                    shares.append((num_tokens, own.tolist()))
        return sent

    parts.share.dispatcher.begin_call = watched  # type: ignore[method-assign, assignment]
    rig.stepper.forward_backward(1, rig.forwards(1))
    hidden = int(parts.share.blueprint.config.hidden_size)
    widths = Widths(hidden, DTYPES[job.precision], DTYPES[job.precision])
    sent = {kind.name: parts.world.sent.total(kind) for kind in CALL_KINDS}
    return sent, [bytes_of(*share, widths, combine) for share in shares]  # type: ignore[arg-type]


@pytest.mark.parametrize("combine", ["at_attention", "at_experts"])
def test_the_bytes_that_cross_are_those_of_the_formula(combine: str) -> None:
    """For the routing that happened; what a worker asks of itself crosses nothing."""
    job = job_of(("longcat_flash", 2, "zebra"))
    results = run_workers(traffic_of, plan_for(job, "ABE"), "ABE", combine)
    sent = {kind.name: sum(of[kind.name] for of, _ in results) for kind in CALL_KINDS}
    total = functools.reduce(lambda a, b: a + b, [t for _, of in results for t in of])
    num_pairs, num_calls = 3, 2 * len(plan_for(job, "ABE").workers[0].experts)  # A-B, A-E and B-E; two micro-batches
    assert sent == {
        "ROWS": total.forward,
        "SIZES": total.header + num_pairs * num_calls * share_bytes(0, 0),
        "OUTPUTS": total.outputs,
        "OUTPUT_GRADIENTS": total.backward,
        "ROW_GRADIENTS": total.gradients,
    }
    assert all(sent.values())
