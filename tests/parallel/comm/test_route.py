"""Native or host is decided in one place, by where a tensor lies and who the peer is."""

from __future__ import annotations

import pytest
import torch
from dougong.parallel.comm.route import Transfer, UnderWay, by_peer, host_memory, split_native
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.parallel.workers import plan_of
from tests.processes import run_workers


@pytest.mark.parametrize(
    ("device", "peer", "native"), [("meta", 1, True), ("meta", 2, False), ("cpu", 1, False), ("cpu", 2, False)]
)
def test_only_what_lies_on_a_device_goes_natively_and_only_inside_the_island(
    device: str, peer: int, native: bool
) -> None:
    transfer, empty = Transfer(peer, torch.empty(3, device=device)), Transfer(peer, torch.empty(0, device=device))
    split = split_native([transfer, empty], frozenset({0, 1}))
    assert split == (([], [transfer]) if native else ([transfer], []))


def test_a_peers_tensors_are_in_an_order_that_both_ends_know() -> None:
    first, second, other = torch.zeros(1), torch.ones(1), torch.zeros(2)
    found = by_peer([Transfer(1, second, 8), Transfer(3, other, 2), Transfer(1, first, 5)])
    assert found.keys() == {1, 3} and found[1][0] is first and found[1][1] is second and found[3][0] is other


def test_host_memory_is_the_tensors_own_where_it_lies_there() -> None:
    tensor = torch.ones(2, 3)
    assert host_memory(tensor) is tensor
    staged = host_memory(torch.empty(2, 3, dtype=torch.bfloat16, device="meta"))
    assert (staged.shape, staged.dtype, staged.device.type) == ((2, 3), torch.bfloat16, "cpu")


def test_what_has_arrived_in_host_memory_is_copied_to_its_place() -> None:
    target = torch.zeros(3)
    UnderWay(landings=[(torch.ones(3), target)]).land()
    assert target.tolist() == [1, 1, 1]


def swap(world: World, plan: Plan) -> list[list[float]]:
    """Both ends send first and receive into their own memory; the empty ones do not travel."""
    other = 1 - world.rank
    arriving = [torch.zeros(2), torch.zeros(0), torch.zeros(2)]
    sends = [Transfer(other, torch.full((n,), float(world.rank + n + tag)), tag) for tag, n in enumerate((2, 0, 2))]
    receives = [Transfer(other, tensor, tag) for tag, tensor in enumerate(arriving)]
    wait = PeerWait(world.member, [other], "a swap")
    under_way = world.snapshots.begin(sends, list(reversed(receives)), wait)
    assert len(under_way.host) == 4
    with wait:
        under_way.wait_for_host(wait)
    return [tensor.tolist() for tensor in arriving]


def test_two_workers_swap_by_tags() -> None:
    first, second = run_workers(swap, plan_of("AE"))
    assert first == [[3, 3], [], [5, 5]] and second == [[2, 2], [], [4, 4]]
