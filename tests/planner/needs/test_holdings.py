"""What workers hold of the state, against the tensors of a real one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from dougong.job.optimizers.declaration import of_no_tensor
from dougong.models.inventory import inspect_model
from dougong.parallel import pieces
from dougong.parallel.comm.world import World
from dougong.parallel.dense.allreduce import NativeReducer
from dougong.parallel.dense.ordered_reduce import OrderedReducer
from dougong.parallel.plan import Seat, make_plan
from dougong.planner.needs.dense_units import owned_gradient_bytes
from dougong.planner.needs.holdings import (
    StateHolding,
    checkpoint_bytes,
    dense_buckets,
    holdings,
    num_sums,
    owned_parameters,
)
from dougong.planner.plan_job import elementwise_rule
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


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bfloat16"}, {"optimizer": {"name": "adamw", "state": "bfloat16"}}]
)
def test_so_it_does_in_pieces(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_NUMEL", 512)
    test_a_worker_holds_what_was_planned(changes)


DEEPSEEK_V3 = {"family": "deepseek_v3", "config": {"vocab_size": 129280}}
"""With transformers' own configuration, which is the model's."""


def test_of_deepseek_v3_a_card_of_256_keeps_less_than_5_gb_outside_of_the_experts() -> None:
    """Masters, moments and gradients of what it owns: all dense state that lasts. Whole, one worker had 14.8 GB."""
    job = make_job(model=DEEPSEEK_V3, precision="bfloat16", dense="shard", batch={"lanes": 256})
    inventory = inspect_model(job.model, None)
    assert sum(tensor.num_parameters for tensor in inventory.tensors) == 17_117_648_384
    seats = [Seat(f"east/{rank}", "east", "both", "node", f"cuda:{rank}") for rank in range(256)]
    most = {}
    for is_cut, rule in ((False, of_no_tensor), (True, elementwise_rule(job))):
        plan = make_plan(256, inventory, seats, is_elementwise=rule)
        sums = owned_gradient_bytes(dense_buckets(job, inventory, plan), plan)
        kept = [12 * owned + sums[rank] for rank, owned in enumerate(owned_parameters(inventory, plan))]
        most[is_cut] = max(kept) / 1e9
        assert sum(kept) / 256e9 == pytest.approx(1.07, abs=0.01)
    assert most[False] == pytest.approx(14.83, abs=0.01) and most[True] == pytest.approx(1.16, abs=0.01)


def test_each_lane_has_a_sum_of_its_own_where_their_order_is_promised() -> None:
    worker = plan_for(make_job()).workers[0]
    assert num_sums(make_job(), worker) == 2 and num_sums(make_job(determinism="run"), worker) == 1


def test_a_checkpoint_has_twelve_bytes_for_each_parameter() -> None:
    inventory = inspect_model(make_job().model, VOCAB)
    assert checkpoint_bytes(make_job(), inventory) == 12 * inventory.num_parameters
