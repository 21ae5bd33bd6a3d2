"""The library's own sum when a peer is gone: known by its class as a consequence, whether the start or the end fails.
What it sums is in `test_ordered_reduce`."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from dougong.errors import PeerError
from dougong.parallel.comm.world import World
from dougong.parallel.comm.world_groups import WorldGroups
from dougong.parallel.dense.allreduce import NativeReducer
from dougong.parallel.dense.buckets import FlatTensors
from tests.parallel.lost_peer import member_of_two, survive
from tests.parallel.workers import plan_of

SHAPES = {"weight": (3, 2)}
PLAN = plan_of("BB", shapes=SHAPES)


class LibraryWithoutPeer(dist.ProcessGroup):
    """A library that refuses to start an operation, as NCCL and HCCL do when a peer is known to be gone; gloo says so
    at the end only."""

    def allreduce(self, *arguments: object) -> dist.Work:
        raise dist.DistBackendError("NCCL communicator was aborted")


def reducer_of(world: World) -> NativeReducer:
    tensors = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    world.begin_step(4)
    return NativeReducer(world, PLAN, FlatTensors(tensors, PLAN.owners))


def test_a_start_that_the_library_refuses_is_a_lost_peer() -> None:
    groups = WorldGroups(attention=LibraryWithoutPeer(0, 2))
    reducer = reducer_of(World(member_of_two(0), groups))
    with pytest.raises(PeerError) as caught:
        reducer.complete(0)
    said = "worker 0 (east/0) lost worker 1 (east/1): gradients of bucket 0, step 4: NCCL communicator was aborted"
    assert str(caught.value) == said


def sum_with_a_dead_peer(world: World) -> str:
    reducer = reducer_of(world)
    reducer.complete(0)
    with pytest.raises(PeerError) as caught:
        reducer.finish()
    return str(caught.value)


def test_a_peer_that_has_died_is_a_lost_peer() -> None:
    said = survive(sum_with_a_dead_peer)
    assert said.startswith("worker 0 (east/0) lost worker 1 (east/1): gradients of bucket 0, step 4: ")
