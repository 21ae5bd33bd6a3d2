"""Who exchanges what with whom, and what stays in an island."""

from __future__ import annotations

import torch
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.peers import Peers, Sides


def member(rank: int, *islands: tuple[int, ...]) -> Membership:
    named = tuple((f"island {number}", "gloo", ranks) for number, ranks in enumerate(islands))
    own = next(name for name, _, ranks in named if rank in ranks)
    size = sum(map(len, islands))
    return Membership(rank, size, 1, own, named, torch.device("cpu"), tuple(range(size)))


def test_one_island_of_both_roles_has_a_collective() -> None:
    peers = Peers.of(Sides((0, 1, 2), (0, 1, 2)), member(1, (0, 1, 2)))
    assert peers.group_size == 3 and peers.others == (0, 2) and not peers.is_alone
    assert peers.targets.far == peers.sources.far == () and peers.targets.own == 1
    assert peers.targets.sizes_in_group([5, 6, 7], 3) == [5, 6, 7]
    assert peers.targets.rows_there([5, 6, 7]) == slice(0, 18)


def test_a_worker_of_one_side_takes_part_with_nothing() -> None:
    peers = Peers.of(Sides((0, 1), (2, 3)), member(0, (0, 1, 2, 3)))
    assert peers.group_size == 4 and peers.others == (1, 2, 3)
    assert peers.targets.sizes_in_group([4, 9], 4) == [0, 0, 4, 9] and peers.sources.ranks == ()


def test_islands_of_one_role_each_send_every_message_by_itself() -> None:
    peers = Peers.of(Sides((0, 1), (2, 3)), member(0, (0, 1), (2, 3)))
    assert peers.group_size == 0 and peers.targets.far == ((0, 2), (1, 3)) and peers.others == (2, 3)


def test_two_islands_of_both_roles_use_both_ways() -> None:
    peers = Peers.of(Sides((0, 1, 2, 3), (0, 1, 2, 3)), member(3, (0, 1), (2, 3)))
    assert peers.group_size == 2 and peers.targets.far == ((0, 0), (1, 1))
    assert peers.targets.sizes_in_group([1, 2, 3, 4], 2) == [3, 4]
    assert peers.targets.rows_there([1, 2, 3, 4]) == slice(3, 10)


def test_an_island_whose_shares_lie_apart_sends_every_message_by_itself() -> None:
    peers = Peers.of(Sides((0, 1, 2), (0, 1, 2)), member(0, (0, 2), (1,)))
    assert peers.group_size == 0 and peers.targets.far == ((1, 1), (2, 2)) and peers.targets.own == 0


def test_a_worker_alone_exchanges_nothing() -> None:
    assert Peers.of(Sides((0,), (0,)), member(0, (0,))).is_alone
