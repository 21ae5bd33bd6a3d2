"""Scratch memory of the ordered sums, for plans of which no worker runs."""

from __future__ import annotations

import pytest
from dougong.models.inventory import inspect_model
from dougong.parallel.dense.buckets import BUCKET_BYTES
from dougong.parallel.plan import Inventory, TensorSpec
from dougong.planner.needs.dense_scratch import scratch_bytes
from dougong.planner.needs.holdings import dense_buckets
from tests.jobs import VOCAB, make_job, plan_for

LARGE = Inventory("large", (TensorSpec("embedding", (129280, 7168), True),), ("x",), 64, (("down_proj", (8, 8)),), 1)


def test_one_worker_with_all_lanes_needs_none_and_a_library_that_adds_neither() -> None:
    job = make_job()
    inventory = inspect_model(job.model, VOCAB)
    plan = plan_for(job, "BB")
    assert scratch_bytes(job, plan_for(job), dense_buckets(job, inventory, plan_for(job))) == [0]
    run = make_job(determinism="run")
    assert scratch_bytes(run, plan, dense_buckets(run, inventory, plan)) == [0, 0]


@pytest.mark.parametrize("roles", ["BB", "AAE", "BBBB"])
def test_two_workers_take_each_other_s_half(roles: str) -> None:
    job = make_job(batch={"lanes": 4, "microbatches": 1, "microbatch_size": 1})
    plan = plan_for(job, roles)
    buckets = dense_buckets(job, inspect_model(job.model, VOCAB), plan)
    whole = 4 * sum(bucket.numel for bucket in buckets)
    found = scratch_bytes(job, plan, buckets)
    for worker, num_bytes in zip(plan.workers, found, strict=True):
        assert (0 < num_bytes < whole) if worker.lanes else num_bytes == 0


def test_a_large_tensor_is_never_under_way_as_a_whole() -> None:
    from dougong.parallel.plan import Seat, make_plan

    job = make_job(batch={"lanes": 64, "microbatches": 1, "microbatch_size": 1})
    for num in (8, 64):
        seats = [Seat(f"e/{n}", "e", "both", "-", f"cpu:{n}") for n in range(num)]
        plan = make_plan(64, LARGE, seats)
        assert 0 < max(scratch_bytes(job, plan, dense_buckets(job, LARGE, plan))) <= BUCKET_BYTES
