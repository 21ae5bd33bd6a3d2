"""Snapshots of `auto` are kept where they take at most half of what state leaves of a machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from dougong.job.schema import Job
from dougong.launcher.agent.remarks import left_out_snapshots
from dougong.models.inventory import inspect_model
from dougong.planner.needs.holdings import state_bytes
from dougong.planner.needs.snapshot_bytes import keeps_snapshots, snapshot_bytes
from dougong.planner.snapshot_room import short_of_room, with_room_for_snapshots
from tests.jobs import VOCAB, make_job, plan_for

NODE = "node"


def room_needed(job: Job, roles: str) -> int:
    """Bytes of a machine where snapshots take just half of what state leaves."""
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, roles)
    kept = sum(part.total for part in snapshot_bytes(job, inventory, plan))
    assert kept
    return sum(state_bytes(job, inventory, plan)) + 2 * kept


@pytest.mark.parametrize(("short", "is_kept"), [(0, True), (1, False)])
def test_half_of_what_state_leaves_is_enough_and_one_byte_less_is_not(short: int, is_kept: bool) -> None:
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
