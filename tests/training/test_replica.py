"""One worker's part of the model: who holds what, and that a master and its copy stay together."""

from __future__ import annotations

import pytest
import torch
from dougong.training import replica as replica_module
from dougong.training.build import build_model
from dougong.training.replica import Replica, build_replica
from tests.families import FAMILIES
from tests.jobs import VOCAB, make_job, plan_for

CPU = torch.device("cpu")


def replicas(roles: str, precision: str = "float32", family: str = "qwen3_moe") -> list[Replica]:
    """Of all workers of a layout, from one blueprint."""
    job = make_job(family, precision=precision)
    plan, blueprint = plan_for(job, roles), build_model(job, VOCAB, CPU)
    return [build_replica(blueprint, plan, rank) for rank in range(len(roles))]


@pytest.mark.parametrize("roles", ["BB", "AEE"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_masters_of_all_workers_are_those_of_one(roles: str, precision: str) -> None:
    (alone,) = replicas("B", precision)
    found: dict[str, torch.Tensor] = {}
    for replica in replicas(roles, precision):
        assert not found.keys() & replica.masters.keys(), "a tensor has two owners"
        found |= replica.masters
    assert found.keys() == alone.masters.keys()
    assert all(torch.equal(found[name], master) for name, master in alone.masters.items())


def test_an_experts_worker_holds_no_dense_tensor() -> None:
    attention, experts = replicas("AE")
    assert not experts.dense and not list(experts.leaves) and not experts.flat.buckets
    assert all(not of_site for of_site in attention.experts) and all(len(of_site) == 8 for of_site in experts.experts)
    assert all(name.endswith("]") for name in experts.masters)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_refreshing_brings_the_masters_to_the_copies(precision: str) -> None:
    (replica,) = replicas("B", precision)
    for master in replica.masters.values():
        if master.is_floating_point():
            master.add_(1.0)
    with torch.no_grad():
        replica.refresh()
    for name, copy in replica.copies:
        assert torch.equal(copy.detach(), replica.masters[name].to(copy.dtype)), name
        if precision == "float32":
            assert copy.data_ptr() == replica.masters[name].data_ptr(), "one tensor, nothing to copy"


def test_values_that_are_read_are_taken_instead_of_initial_ones() -> None:
    job = make_job()
    plan, blueprint = plan_for(job), build_model(job, VOCAB, CPU)
    initial = build_replica(blueprint, plan, 0).masters
    asked = build_replica(blueprint, plan, 0, lambda name: initial[name] + 1.0).masters
    assert all(torch.equal(asked[name], initial[name] + 1.0) for name in initial)


@pytest.mark.parametrize("family", FAMILIES)
def test_masters_are_the_same_where_a_worker_keeps_only_what_it_owns(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few tensors at a time, also where a family draws numbers for one in a scratch tensor."""
    (alone,) = replicas("B", family=family)
    monkeypatch.setattr(replica_module, "AT_ONCE", 5000)
    job = make_job(family, dense="shard")
    plan, blueprint = plan_for(job, "BB"), build_model(job, VOCAB, CPU)
    for rank in range(2):
        masters = build_replica(blueprint, plan, rank).masters
        dense = {name for name, owner in plan.owners.items() if owner == rank}
        assert dense <= masters.keys()
        assert all(torch.equal(master, alone.masters[name]) for name, master in masters.items())
