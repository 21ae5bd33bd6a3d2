"""An island's all-to-all: shares of any size, with the collective and without."""

from __future__ import annotations

import torch
import torch.distributed as dist
from dougong.parallel.comm.all_to_all import AllToAll
from dougong.parallel.comm.message import SplitTensor
from dougong.parallel.comm.peers import Peers, Sides
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from tests.parallel.workers import plan_of
from tests.processes import run_workers

CPU = torch.device("cpu")


def share(sender: int, receiver: int) -> torch.Tensor:
    rows = (2 * sender + receiver) % 4
    return torch.full((rows, 3), 10.0 * sender + receiver)


def exchange(world: World, plan: Plan) -> list[bool]:
    """Ranks 0 and 1 send to 1 and 2, in both ways."""
    sides, me = Sides((0, 1), (1, 2)), world.rank
    peers, group = Peers.of(sides, world.member), world.group_of_island(MessageKind.ROWS)
    right = []
    for has_collective in (True, False):
        sent = coming = None
        if me in sides.senders:
            pieces = [share(me, receiver) for receiver in sides.receivers]
            sent = SplitTensor(torch.cat(pieces), [len(piece) for piece in pieces])
        due = torch.cat([share(sender, me) for sender in sides.senders])
        if me in sides.receivers:
            coming = SplitTensor(torch.full_like(due, -1), [len(share(sender, me)) for sender in sides.senders])
        part = AllToAll.of(peers, sent, coming, CPU)
        assert part.on_host() is part
        works = [part.begin(group)] if has_collective else part.begin_one_by_one(group)
        for work in works:
            work.wait()
        right.append(coming is None or torch.equal(coming.values, due))
        dist.barrier(group)
    return right


def test_shares_of_any_size_come_to_their_places() -> None:
    assert run_workers(exchange, plan_of("BBB")) == [[True, True]] * 3
