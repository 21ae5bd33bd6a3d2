"""gloo speaks from the address that it is given, and from no other."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from dougong.addresses import PER_WORKER
from dougong.control.worker.listen_ports import own_ports
from dougong.parallel.comm import gloo
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.parallel.workers import plan_of
from tests.processes import run_workers


def test_it_may_be_registered_twice() -> None:
    gloo.register()
    gloo.register()
    assert dist.Backend.backend_list.count(gloo.NAME) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_group_listens_at_its_address(address: str) -> None:
    before = own_ports()
    made = gloo.options(gloo.listen(address), timedelta(seconds=5))
    assert made is not None
    assert len(own_ports() - before) == 1


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_of_another_machine_is_refused(address: str) -> None:
    with pytest.raises(RuntimeError, match=address):
        gloo.listen(address)


def count_listeners(world: World, plan: Plan) -> int:
    return len(own_ports())


def test_a_worker_listens_on_as_many_ports_as_are_counted_for_it() -> None:
    assert run_workers(count_listeners, plan_of("BB")) == [PER_WORKER, PER_WORKER]
    islands = (("east", (0, 1)), ("west", (2, 3)))
    assert run_workers(count_listeners, plan_of("AAEE"), islands=islands)[0] == PER_WORKER


def sum_in_a_group_of_anothers(world: World, plan: Plan) -> float:
    """As DeepSpeed makes its groups, of the default one's backend and without options."""
    values = torch.tensor([1.0 + world.rank])
    dist.all_reduce(values, group=dist.new_group([0, 1]))
    return values.item()


def test_another_library_may_make_groups_beside_ours() -> None:
    assert run_workers(sum_in_a_group_of_anothers, plan_of("BB")) == [3.0, 3.0]
