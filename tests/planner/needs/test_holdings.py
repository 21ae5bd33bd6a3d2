"""What workers hold of the state, against the tensors of a real one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from dougong.models.inventory import inspect_model
from dougong.parallel.comm.world import World
from dougong.parallel.dense.allreduce import NativeReducer
from dougong.parallel.dense.ordered_reduce import OrderedReducer
from dougong.planner.needs.holdings import StateHolding, checkpoint_bytes, holdings, num_sums
from tests.jobs import VOCAB, Rig, make_job, make_rig, plan_for
from torch import Tensor


def memory_of(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each memory that they lie in."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def of_rig(rig: Rig) -> StateHolding:
    """The same, counted tensor by tensor."""
    share, replica = rig.stepper.parts.share, rig.replica
    moments = sum(value.nbytes for _, _, value in share.optimizer.state() if value.dim())
    copies = memory_of([*(tensor for _, tensor in replica.copies), *replica.dense.values()])
    masters = memory_of(replica.masters.values())
    apart = sum(num_bytes for place, num_bytes in masters.items() if place not in copies)
    kind = OrderedReducer if rig.job.is_layout_free else NativeReducer
    reducer = kind(World.alone(), rig.plan, replica.flat)
    gradients = memory_of(t for lane in rig.plan.workers[0].lanes for t in reducer.sums(lane).values())
    for site in share.shard.gradients:
        gradients |= memory_of(tensor for tensors in site.values() for tensor in tensors.values())
    trained = sum(replica.masters[name].numel() for name in share.optimizer.names)
    return StateHolding(sum(copies.values()), sum(gradients.values()), apart, moments, False, trained)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bfloat16"},
        {"determinism": "run"},
        {"batch": {"lanes": 3, "microbatches": 1, "microbatch_size": 1}},
        {"optimizer": {"name": "adamw", "lr": 1e-3, "state": "bfloat16"}},
    ],
)
def test_a_worker_holds_what_was_planned(changes: dict[str, Any]) -> None:
    job = make_job(**changes)
    rig = make_rig(job)
    rig.run(1)
    (planned,) = holdings(job, inspect_model(job.model, VOCAB), plan_for(job))
    assert planned == of_rig(rig)


def test_each_lane_has_a_sum_of_its_own_where_their_order_is_promised() -> None:
    worker = plan_for(make_job()).workers[0]
    assert num_sums(make_job(), worker) == 2 and num_sums(make_job(determinism="run"), worker) == 1


def test_a_checkpoint_has_twelve_bytes_for_each_parameter() -> None:
    inventory = inspect_model(make_job().model, VOCAB)
    assert checkpoint_bytes(make_job(), inventory) == 12 * inventory.num_parameters
