"""Native or host is decided in one place, by where a tensor lies and who the peer is."""

from __future__ import annotations

import pytest
import torch
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.route import Groups, Route
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from tests.parallel.workers import plan_of
from tests.processes import run_workers


@pytest.mark.parametrize(
    ("device", "peer", "native"), [("meta", 1, True), ("meta", 2, False), ("cpu", 1, False), ("cpu", 2, False)]
)
def test_only_what_lies_on_a_device_goes_natively_and_only_inside_the_island(
    device: str, peer: int, native: bool
) -> None:
    route = Route(Groups(), frozenset({0, 1}))
    assert route.is_native(torch.empty(3, device=device), peer) is native


def swap(world: World, plan: Plan) -> list[list[float]]:
    """Both ends send first and receive into their own memory; the empty ones do not travel."""
    other = 1 - world.rank
    arriving = [torch.zeros(2), torch.zeros(0), torch.zeros(2)]
    sends = [Transfer(other, torch.full((n,), float(world.rank + n + tag)), tag) for tag, n in enumerate((2, 0, 2))]
    receives = [Transfer(other, tensor, tag) for tag, tensor in enumerate(arriving)]
    wait = PeerWait(world.member, [other], "a swap")
    under_way = world.route_of(MessageKind.ROWS).begin(sends, list(reversed(receives)), wait)
    assert len(under_way.host) == 4 and not under_way.native
    with wait:
        under_way.wait_for_host(wait)
    return [tensor.tolist() for tensor in arriving]


def test_two_workers_swap_by_tags() -> None:
    first, second = run_workers(swap, plan_of("AE"))
    assert first == [[3, 3], [], [5, 5]] and second == [[2, 2], [], [4, 4]]


def test_a_member_without_native_peers_sends_all_through_the_host() -> None:
    member = Membership(0, 1, 1, "", (), torch.device("meta"), (0,))
    world = World(member, Groups(), Groups(), {})
    assert not world.route_of(MessageKind.ROWS).is_native(torch.empty(1, device="meta"), 0)
