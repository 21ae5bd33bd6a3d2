"""Native or not is decided in one place, by where a tensor lies and who the peer is."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
import torch
from dougong.accelerators.streams import Mark
from dougong.errors import PeerError
from dougong.parallel.comm.route import Pending, UnderWay, by_peer, split_native
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.parallel.lost_peer import member_of_two
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


CPU = torch.device("cpu")


def pending_of(host: Future[None] | None, native: Future[Mark] | None, target: torch.Tensor) -> Pending:
    landed = UnderWay(landings=[(torch.ones(2), target)])
    return Pending(landed, host, native, CPU, lambda: PeerWait(member_of_two(0), [1], "gradients"))


def test_it_is_done_when_both_ways_are_and_then_lands() -> None:
    host, native, target = Future[None](), Future[Mark](), torch.zeros(2)
    pending = pending_of(host, native, target)
    assert not pending.is_done()
    host.set_result(None)
    assert not pending.is_done()
    native.set_result(None)
    assert pending.is_done() and target.tolist() == [0, 0]
    pending.wait()
    assert target.tolist() == [1, 1]


def test_a_peer_that_is_lost_on_the_native_way_is_named() -> None:
    native = Future[Mark]()
    native.set_exception(RuntimeError("communicator was aborted"))
    pending = pending_of(None, native, torch.zeros(2))
    for ask in (pending.is_done, pending.wait):
        with pytest.raises(PeerError, match=r"lost worker 1 \(east/1\): gradients: communicator was aborted"):
            ask()
