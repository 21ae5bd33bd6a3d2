"""From a job's keys to its plan: speeds, offload and memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from dougong.errors import PlanError
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, TensorSpec
from dougong.planner.needs.holdings import expert_bytes, state_bytes
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import computes, layer_times, plan_job, speed_of

EXPERT = 1_000_000
"""Parameters of one expert; a dense tensor has as many."""
ALIGNED = 1_000_192
"""Of a dense tensor in its bucket."""
ROUNDED = 256
"""Bytes by which an expert's gradient is rounded up."""
TINY = Inventory(
    "tiny", (TensorSpec("a", (EXPERT,), True),), ("x.experts", "y.experts"), 8, (("down_proj", (1000, 1000)),), 2
)
FAST_A = {"attention": 4.0, "experts": 2.0}
FAST_E = {"attention": 1.0, "experts": 1.0}


def job_of(**changes: Any) -> Job:
    islands = [
        {"name": "a", "accelerator": "cpu", "workers": 2, "role": "attention", "speed": FAST_A},
        {"name": "e", "accelerator": "cpu", "workers": 2, "role": "experts", "speed": FAST_E},
    ]
    values: dict[str, Any] = {
        "job": "test", "model": {"family": "tiny"}, "data": {"text": "stdlib", "sequence_length": 1000},
        "batch": {"lanes": 4, "microbatches": 2, "microbatch_size": 1}, "steps": 1, "islands": islands,
    }  # fmt: skip
    return Job.model_validate(values | changes)


def with_island(job: Job, name: str, **changes: Any) -> Job:
    values = job.model_dump()
    return Job.model_validate(
        values | {"islands": [i | changes if i["name"] == name else i for i in values["islands"]]}
    )


def plan_of(job: Job) -> Plan:
    return plan_job(job, TINY, seats_of_job(job.islands))


def test_times_of_a_layer_are_what_the_speeds_say() -> None:
    job = job_of()
    speeds = {island.name: speed_of(island) for island in job.islands}
    places = [dataclasses.replace(seat, speed=speeds[seat.island]) for seat in seats_of_job(job.islands)]
    times = layer_times(job, TINY, places)
    # two lanes on each attention worker; 4 lanes x 1000 tokens x 2 experts are 8 thousand rows
    assert (times.attention, times.experts, times.experts_kept) == (2 / 4, 8 / 2, 8 / 4)


def test_offload_none_a_number_and_auto() -> None:
    assert [w.num_experts for w in plan_of(job_of()).workers] == [0, 0, 8, 8]
    assert [[len(own) for own in w.experts] for w in plan_of(job_of(offload=3)).workers] == [
        [2, 1], [1, 2], [3, 2], [2, 3],
    ]  # fmt: skip
    # 2 layers * 3.5 to fill, a chunk of 2 experts takes 2/8 * (4 + 2) = 1.5: 4.67 chunks; with 5 the busier side has
    # max(1 + 2.5, 8 - 5) = 3.5, with 4 max(1 + 2, 8 - 4) = 4
    kept = [sum(len(w.experts[site]) for w in plan_of(job_of(offload="auto")).workers[:2]) for site in range(2)]
    assert kept == [4, 6]


def test_offload_where_no_worker_computes_attention_alone_changes_nothing() -> None:
    job = job_of(offload=3, islands=[{"name": "b", "accelerator": "cpu", "workers": 2}])
    assert [w.num_experts for w in plan_of(job).workers] == [8, 8]


@pytest.mark.parametrize(("precision", "each"), [("float32", 16), ("bfloat16", 18)])
def test_memory_is_weights_gradients_and_optimizer_state(precision: str, each: int) -> None:
    job = job_of(precision=precision)
    plan, one = plan_of(job), expert_bytes(job, TINY, "e")
    assert one == each * EXPERT + ROUNDED
    # The dense tensor, which one worker owns, and a gradient of it for each of two lanes.
    computing = {"float32": 12, "bfloat16": 10}[precision] * ALIGNED
    owning = {"float32": 8, "bfloat16": 12}[precision] * EXPERT
    assert state_bytes(job, TINY, plan) == [computing + owning, computing, 8 * one, 8 * one]


def state_on_host(job: Job, plan: Plan) -> list[int]:
    return [memory.state_on_host for memory in needed_memory(job, TINY, plan)]


@pytest.mark.parametrize(("precision", "computing"), [("float32", 8), ("bfloat16", 6)])
def test_masters_and_moments_on_the_host_take_its_memory_and_not_the_device_s(precision: str, computing: int) -> None:
    """Of islands whose workers have devices; a processor's memory is the machine's either way."""
    on_device = job_of(precision=precision)
    job = with_island(job_of(precision=precision, optimizer={"device": "host"}), "e", accelerator="cuda")
    plan = plan_of(job)
    worker, _, expert, _ = state_bytes(job, TINY, plan)
    assert worker == state_bytes(on_device, TINY, plan)[0]
    assert expert == 8 * (computing * EXPERT + ROUNDED) == 8 * expert_bytes(job, TINY, "e")
    links = 4 * (16 << 20)
    assert state_on_host(job, plan) == [0, 0, *[8 * 12 * EXPERT + links] * 2]
    assert state_on_host(with_island(on_device, "e", accelerator="cuda"), plan) == [0] * 4


def test_memory_bounds_auto_offload_on_both_sides() -> None:
    one = expert_bytes(job_of(), TINY, "e") / 1e9
    auto = job_of(offload="auto")
    assert kept_in(with_island(auto, "a", memory_gb=3.1 * one)) == 2  # one has room for 1 beside its tensor, one for 2
    assert kept_in(with_island(with_island(auto, "a", speed={"attention": 0.1}), "e", memory_gb=6.5 * one)) == 4
    with pytest.raises(PlanError, match="no room for 12 of 16 experts, and the attention workers can keep 2"):
        plan_of(with_island(with_island(auto, "a", memory_gb=3.1 * one), "e", memory_gb=2.5 * one))


def kept_in(job: Job) -> int:
    """With experts that keep nothing but what comes to them."""
    plan = plan_job(job, dataclasses.replace(TINY, is_swiglu=False), seats_of_job(job.islands))
    return sum(w.num_experts for w in plan.workers if w.role == "attention")


def test_a_plan_that_does_not_fit_is_refused_with_the_numbers() -> None:
    job = with_island(job_of(), "e", memory_gb=0.1)
    with pytest.raises(
        PlanError, match=r"e/0 needs 0.354 GB at its peak .*, and islands.e.memory_gb leaves it 0.1 GB: rows of experts"
    ):
        plan_of(job)


def test_an_attention_worker_that_keeps_experts_runs_both_roles_kernels() -> None:
    for offload, role in (("none", "attention"), (0, "attention"), (2, "both"), ("auto", "both")):
        assert computes(job_of(offload=offload), "attention") == role
    assert computes(job_of(offload=2), "experts") == "experts"


def test_an_emulated_islands_speed_is_that_of_its_emulation() -> None:
    emulated = with_island(job_of(), "a", speed=None, emulate={"attention_ms": 4.0, "expert_ms_per_1k_tokens": 10.0})
    found = speed_of(emulated.islands[0])
    assert (found.attention, found.experts) == (250.0, 100.0)
    told = {"attention_ms": 4.0, "expert_ms_per_1k_tokens": 10.0}
    assert speed_of(with_island(job_of(), "a", emulate=told).islands[0]).attention == FAST_A["attention"]
