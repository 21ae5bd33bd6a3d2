"""Bytes of snapshots: what a part really takes, twice over, and what is kept for others."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.models.inventory import inspect_model
from dougong.planner.needs.snapshot_bytes import (
    SnapshotBytes,
    keeps_snapshots,
    part_sizes,
    snapshot_bytes,
    takes_snapshots,
)
from dougong.training.build import build_model, build_on_plan
from dougong.training.memory.part import layout_of, num_bytes_of
from dougong.training.state import StartState, state_of
from tests.jobs import VOCAB, make_job, make_rig, plan_for
from torch import device


@pytest.mark.parametrize(("family", "roles"), [("qwen3_moe", "BB"), ("gpt_oss", "AE")])
def test_a_part_is_as_large_as_planned(family: str, roles: str) -> None:
    job = make_job(family)
    plan, blueprint = plan_for(job, roles), build_model(job, VOCAB, device("cpu"))
    for worker, size in zip(plan.workers, part_sizes(job, inspect_model(job.model, VOCAB), plan), strict=True):
        share = build_on_plan(blueprint, plan, worker.rank, StartState())
        layout = layout_of(state_of(share.replica, share.optimizer))
        # The optimizer's count of updates exists from the first one on.
        num_trained = len(share.optimizer.names)
        assert num_bytes_of(layout) + 8 * num_trained == size.num_bytes
        assert len(layout) + num_trained == size.num_tensors


def test_after_an_update_a_part_is_as_large_as_planned() -> None:
    job = make_job()
    rig = make_rig(job)
    rig.run(1)
    (size,) = part_sizes(job, inspect_model(job.model, VOCAB), rig.plan)
    layout = layout_of(state_of(rig.replica, rig.stepper.optimizer))
    assert (num_bytes_of(layout), len(layout)) == (size.num_bytes, size.num_tensors)


SNAPSHOTS: list[tuple[dict[str, Any], str]] = [({}, "BBB"), ({"replicas": 2}, "BBB"), ({"replicas": 0}, "BBB")]


@pytest.mark.parametrize(("snapshots", "roles"), SNAPSHOTS)
def test_memory_is_two_of_ones_own_and_two_of_each_replica(snapshots: dict[str, Any], roles: str) -> None:
    batch = {"lanes": 3, "microbatches": 1, "microbatch_size": 1}
    job = make_job(batch=batch, fault={"snapshots": snapshots})
    inventory, plan = inspect_model(job.model, VOCAB), plan_for(job, roles)
    own = [2 * part.num_bytes for part in part_sizes(job, inventory, plan)]
    found = snapshot_bytes(job, inventory, plan)
    assert [part.own for part in found] == own
    assert sum(part.replicas for part in found) == snapshots.get("replicas", 1) * sum(own)


def test_there_are_none_where_they_are_off_or_a_worker_is_alone() -> None:
    for job, roles in ((make_job(fault={"snapshots": {"every": 0}}), "BB"), (make_job(), "B")):
        plan = plan_for(job, roles)
        assert not takes_snapshots(job, plan)
        assert keeps_snapshots(job.fault.snapshots, plan) is (roles == "B"), "a copy is made when it leaves"
        nothing = [SnapshotBytes(0, 0)] * len(roles)
        assert snapshot_bytes(job, inspect_model(job.model, VOCAB), plan) == nothing
