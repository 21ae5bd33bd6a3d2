"""Snapshots of `auto` are kept where a tenth of a machine's memory is left beside them and its workers' peaks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from dougong.errors import PlanError
from dougong.job.schema import Job
from dougong.launcher.agent.remarks import left_out_snapshots
from dougong.models.inventory import inspect_model
from dougong.planner.memory import KnownMemory, check_fit
from dougong.planner.needs.snapshot_bytes import keeps_snapshots
from dougong.planner.needs.terms import Term
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.snapshot_room import short_of_room, with_room_for_snapshots
from tests.jobs import VOCAB, make_job, plan_for

NODE = "node"


def room_needed(job: Job, roles: str) -> int:
    """The least bytes of a machine that are enough."""
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, roles)
    memories = needed_memory(job, inventory, plan)
    assert all(memory.host[Term.SNAPSHOTS] for memory in memories)
    taken = sum(memory.peak + memory.on_host for memory in memories)
    enough = taken + taken // 9
    return next(room for room in range(enough - 2, enough + 3) if room - room // 10 >= taken)


@pytest.mark.parametrize(("short", "is_kept"), [(0, True), (1, False)])
def test_a_tenth_that_is_left_is_enough_and_less_is_not(short: int, is_kept: bool) -> None:
    job = make_job()
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, "BB")
    machines = {NODE: room_needed(job, "BB") - short}
    made = with_room_for_snapshots(job, inventory, plan, machines)
    assert made == dataclasses.replace(plan, has_snapshots=is_kept)
    assert keeps_snapshots(job.fault.snapshots, made) is is_kept
    found = short_of_room(job, inventory, made, machines)
    assert (found is None) is is_kept
    told = list(left_out_snapshots(found))
    assert len(told) == short
    assert all(NODE in text and "set fault.snapshots.replicas: 1" in text for text in told)


@pytest.mark.parametrize("snapshots", [{"replicas": 1}, {"replicas": 0}, {"every": 0}])
def test_what_the_job_says_is_not_decided_here(snapshots: dict[str, Any]) -> None:
    job = make_job(fault={"snapshots": snapshots})
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, "BB")
    assert with_room_for_snapshots(job, inventory, plan, {NODE: 1}) is plan
    assert short_of_room(job, inventory, plan, {NODE: 1}) is None


def test_nothing_is_left_out_where_memory_is_unknown_or_there_is_nothing_to_keep() -> None:
    job = make_job()
    inventory = inspect_model(job.model, VOCAB)
    for roles, machines in (("BB", {}), ("B", {NODE: 1})):
        plan = plan_for(job, roles)
        assert with_room_for_snapshots(job, inventory, plan, machines) is plan


def test_what_would_not_fit_with_snapshots_runs_without_them() -> None:
    """Its state leaves room for them, its activations do not."""
    job = make_job()
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, "BB")
    memories = needed_memory(job, inventory, plan)
    taken = sum(memory.peak + memory.on_host for memory in memories)
    machine = KnownMemory(NODE, tuple(worker.name for worker in plan.workers), taken - 1, is_shared=True)
    with pytest.raises(PlanError, match="snapshots"):
        check_fit(job, plan, needed_memory(job, inventory, plan), [machine])
    made = with_room_for_snapshots(job, inventory, plan, {NODE: machine.num_bytes})
    check_fit(job, made, needed_memory(job, inventory, made), [machine])
