"""Replicas between real workers: what is kept for another is what it had, also when its tensors become more."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from dougong.checkpoint.snapshot import StateTensor
from dougong.deadlines import DEADLINES
from dougong.errors import PeerError
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.replica_holders import replica_holders
from dougong.training.memory.holdings import Moment
from dougong.training.memory.part import Buffers, StatePart, layout_of, num_bytes_of
from dougong.training.memory.replicas import ReplicaExchange, replica_bytes
from tests.parallel.workers import plan_of
from tests.processes import run_workers
from torch import Tensor


def tensor(rank: int, number: int) -> Tensor:
    return torch.full((rank + 1, number + 1), 10.0 * rank + number)


def part_at(rank: int, step: int) -> StatePart:
    """A worker's state: after its first steps it has one tensor more."""
    state = [StateTensor("model", f"t{number}", tensor(rank, number) + step) for number in range(min(step, 2))]
    layout = layout_of(state)
    part = StatePart(Moment(step, 1), f"{step:032x}", layout, torch.empty(num_bytes_of(layout), dtype=torch.uint8))
    part.fill(state)
    return part


def exchanged(world: World, plan: Plan, replicas: int) -> list[list[tuple[int, int, str | None, bool]]]:
    """Of every step: (owner, step, ledger, whether the replica's tensors are right) of what is kept here."""
    exchange = ReplicaExchange(world, replica_holders(plan, replicas))
    found = []
    for step in (1, 2, 3):
        part, buffers = part_at(world.rank, step), Buffers()
        kept = exchange.exchange(part, lambda owner, size, buffers=buffers: buffers.take(str(owner), size))
        before = world.sent.total(TrafficKind.REPLICAS)
        exchange.count(part)
        sent = world.sent.total(TrafficKind.REPLICAS) - before
        assert sent == replicas * replica_bytes(part.memory.numel(), len(part.layout))
        row = []
        for owner, replica in kept.items():
            expected = part_at(owner, step)
            keys = [held.key for held in expected.holding().tensors]
            right = replica.digests == expected.digests
            right &= all(torch.equal(replica.tensor(key), expected.tensor(key)) for key in keys)
            row.append((owner, replica.moment.step, replica.ledger, right and replica.is_whole))
        found.append(row)
    return found


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_is_kept_for_another_is_what_it_had(replicas: int) -> None:
    for rank, steps in enumerate(run_workers(exchanged, plan_of("BBB"), replicas)):
        owners = [(rank - ahead) % 3 for ahead in range(1, replicas + 1)]
        for step, row in enumerate(steps, 1):
            assert sorted(row) == [(owner, step, f"{step:032x}", True) for owner in sorted(owners)]


def alone_with_it(world: World, plan: Plan) -> str:
    """Worker 1 takes no part."""
    if world.rank == 1:
        time.sleep(2.0)  # longer than it is waited for
        return ""
    exchange = ReplicaExchange(world, replica_holders(plan, 1))
    with pytest.raises(PeerError) as lost:
        exchange.exchange(part_at(world.rank, 1), lambda owner, size: torch.empty(size, dtype=torch.uint8))
    return str(lost.value)


def test_a_peer_that_does_not_come_is_named_with_the_step_and_the_limit() -> None:
    deadlines = dataclasses.replace(DEADLINES, message_s=1.0)
    first, _ = run_workers(alone_with_it, plan_of("BB"), deadlines=deadlines)
    assert "waited 1 s (fault.deadlines.message_s) for worker 1 (east/1): snapshots of step 1" in first
