"""The account of a plan's memory: what is in it, and when."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.planner.needs.holdings import state_bytes
from dougong.planner.needs.terms import Term
from dougong.planner.needs.worker_memory import CHECKS, STEP, UPDATE, needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from tests.planner.test_plan_job import TINY, job_of, with_island


def memory_of(job: Any) -> list[Any]:
    return needed_memory(job, TINY, plan_job(job, TINY, seats_of_job(job.islands)))


def test_the_state_is_that_of_the_holdings_and_lanes_have_gradients_of_their_own() -> None:
    job = job_of()
    plan = plan_job(job, TINY, seats_of_job(job.islands))
    assert [memory.state for memory in memory_of(job)] == state_bytes(job, TINY, plan)
    one, two = memory_of(job_of(batch={"lanes": 2, "microbatches": 2, "microbatch_size": 1}))[1], memory_of(job)[1]
    assert two.always[Term.GRADIENTS] == 2 * one.always[Term.GRADIENTS] > 0


@pytest.mark.parametrize(("kind", "checked"), [("cpu", False), ("cuda", True)])
def test_sums_of_bits_take_memory_of_devices(kind: str, checked: bool) -> None:
    phases = memory_of(with_island(job_of(), "e", accelerator=kind))[2].phases
    assert bool(phases[CHECKS]) == checked and phases[STEP] and not phases[UPDATE]


def test_moments_in_half_precision_are_wide_for_a_moment() -> None:
    job = job_of(optimizer={"name": "adamw", "lr": 1e-3, "state": "bfloat16"})
    wide, plain = memory_of(job)[2], memory_of(job_of())[2]
    assert 2 * wide.always[Term.MOMENTS] == plain.always[Term.MOMENTS]
    assert wide.phases[UPDATE] == {Term.UPDATE: 8 * 8 * 1_000_000}


def test_masters_on_the_host_leave_the_device() -> None:
    memory = memory_of(with_island(job_of(optimizer={"device": "host"}), "e", accelerator="cuda"))[2]
    assert Term.MOMENTS not in memory.always and memory.host[Term.MOMENTS] == 64_000_000
    assert memory.host[Term.LINKS] == 4 * (16 << 20)


def test_a_copy_of_the_state_is_written_and_others_are_kept() -> None:
    memory = memory_of(job_of())[2]
    assert memory.host[Term.STAGING] >= 8 * 12_000_000 and memory.host[Term.SNAPSHOTS] > memory.host[Term.STAGING]
