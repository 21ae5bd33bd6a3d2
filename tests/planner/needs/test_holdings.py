"""What workers hold of the state, against the tensors of a real one."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.models.inventory import inspect_model
from dougong.planner.needs.holdings import Holding, checkpoint_bytes, holdings, num_sums
from tests.jobs import VOCAB, Rig, make_job, make_rig, plan_for


def of_rig(rig: Rig) -> Holding:
    """The same, counted tensor by tensor."""
    share = rig.stepper.parts.share
    moments = sum(value.nbytes for _, _, value in share.optimizer.state() if value.dim())
    copies = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for _, tensor in rig.replica.copies}
    copies |= {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in rig.replica.dense.values()}
    masters = {}
    for tensor in rig.replica.masters.values():
        storage = tensor.untyped_storage()
        if storage._cdata not in copies:
            masters[storage._cdata] = storage.nbytes()
    gradients = sum(flat.nbytes for flat in share.shard._flat)
    reducer = rig.stepper.parts.gradients._reducer
    for buffers in getattr(reducer, "_leaves", {0: getattr(reducer, "_buffers", ())}).values():
        gradients += sum(buffer.nbytes for buffer in buffers)
    trained = sum(share.replica.masters[name].numel() for name in share.optimizer.names)
    return Holding(sum(copies.values()), gradients, sum(masters.values()), moments, False, trained)


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
