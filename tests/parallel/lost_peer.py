"""A world of two real workers of whom the second one dies: what the first one meets then."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.parallel.workers import plan_of
from tests.processes import CONTEXT, run_workers
from tests.stores import store_at
from torch.distributed import TCPStore


def member_of_two(rank: int, deadlines: Deadlines = DEADLINES) -> Membership:
    """One of two workers of generation 1, both with lanes, without a native library."""
    islands = (("east", "gloo", (0, 1)),)
    names = ("east/0", "east/1")
    return Membership(rank, 2, 1, "east", islands, torch.device("cpu"), (0, 1), names, deadlines)


def survive(task: Callable[[World], Any]) -> Any:
    """What `task` returns in a worker whose only peer has died, by no end that it could announce; the library knows it
    already."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    peer = CONTEXT.Process(target=_die, args=(store.port,), daemon=True)
    peer.start()
    try:
        (result,) = run_workers(_live_on, plan_of("B"), task, store.port)
    finally:
        peer.kill()
        peer.join(10)
    return result


def _die(port: int) -> None:
    world = World.join(member_of_two(1), store_at(port))
    world.barrier()
    os._exit(1)


def _live_on(alone: World, plan: Plan, task: Callable[[World], Any], port: int) -> Any:
    world = World.join(member_of_two(0), store_at(port))
    world.barrier()
    with pytest.raises(PeerError):
        world.transfer(TrafficKind.SUMS, [], [Transfer(1, torch.zeros(3))], "what never comes").wait()
    result = task(world)
    world.leave()
    return result
