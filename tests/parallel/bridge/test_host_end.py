"""What goes through host memory in chunks arrives as it left, and a peer that dies between two chunks is told."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.parallel.bridge.late_device import RULE, connect, cross, open_end
from tests.parallel.lost_peer import member_of_two
from tests.parallel.workers import plan_of
from tests.processes import CONTEXT, run_workers
from tests.stores import store_at
from torch.distributed import TCPStore

LEAST, MOST = RULE.least_bytes, RULE.most_bytes
SIZES = (1, LEAST - 1, LEAST, LEAST + 1, RULE.parts * LEAST + 1, RULE.parts * MOST, 10 * MOST + 5)
"""Bytes: of less than a chunk, of one, of some, and of many more than have room at once."""


def content(sender: int, receiver: int, number: int, size: int) -> torch.Tensor:
    return ((torch.arange(size) * (sender + 3) + 7 * receiver + number) % 251).to(torch.uint8)


def swap(world: World, plan: Plan) -> list[tuple[int, int, int]]:
    """Everybody sends everybody a message of each size, twice, and whole numbers beside them; the peer, turn and
    size of what did not arrive as it left."""
    end = open_end(world, connect(world))
    wrong = []
    others = [rank for rank in range(world.size) if rank != world.rank]
    for turn in range(2):
        sends, landings = [], {}
        for peer in others:
            for tag, size in enumerate(SIZES):
                sends.append(Transfer(peer, content(world.rank, peer, turn, size), tag))
                landings[peer, tag] = torch.zeros(size, dtype=torch.uint8)
            sends.append(Transfer(peer, torch.full((3,), world.rank + turn), len(SIZES)))
            landings[peer, len(SIZES)] = torch.zeros(3, dtype=torch.int64)
        receives = [Transfer(peer, landing, tag) for (peer, tag), landing in landings.items()]
        cross(world, end, sends, receives[::-1])
        for (peer, tag), landing in landings.items():
            is_counts = tag == len(SIZES)
            due = torch.full((3,), peer + turn) if is_counts else content(peer, world.rank, turn, SIZES[tag])
            if not torch.equal(landing, due):
                wrong.append((peer, turn, landing.numel()))
    end.close()
    return wrong


def test_messages_about_the_size_of_a_chunk_and_of_many_arrive_as_they_left() -> None:
    assert run_workers(swap, plan_of("BBB")) == [[], [], []]


def test_it_says_how_it_moves_the_bytes() -> None:
    facts = run_workers(facts_of, plan_of("BB"))
    assert facts == ["2 connections of gloo, chunks of 1 to 4 KiB in pinned memory"] * 2


def facts_of(world: World, plan: Plan) -> str:
    return open_end(world, connect(world)).facts()


@pytest.mark.parametrize("part", ["sends", "receives"])
def test_a_peer_that_dies_between_two_chunks_is_told(part: str) -> None:
    assert "lost worker 1 (east/1): a crossing" in survive(part, os_exit, DEADLINES)


def test_a_peer_that_takes_no_more_chunks_is_waited_for_until_the_limit() -> None:
    told = survive("sends", stand_still, Deadlines(message_s=1.0))
    assert "waited 1 s (fault.deadlines.message_s) for worker 1 (east/1): a crossing" in told


def os_exit() -> None:
    os._exit(1)


def stand_still() -> None:
    CONTEXT.Event().wait(60)


def survive(part: str, then: Callable[[], None], deadlines: Deadlines) -> str:
    """What a worker is told whose only peer takes a part of its message, or sends a part of its own, and no more."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    peer = CONTEXT.Process(target=take_a_part, args=(store.port, part, then), daemon=True)
    peer.start()
    try:
        (told,) = run_workers(cross_alone, plan_of("B"), part, store.port, deadlines)
    finally:
        peer.kill()
        peer.join(10)
    return str(told)


def take_a_part(port: int, part: str, then: Callable[[], None]) -> None:
    """The other's message is of 60 chunks; of them this worker takes or sends the first one."""
    world = World.join(member_of_two(1), store_at(port))
    first, connection = torch.zeros(MOST, dtype=torch.uint8), connect(world)[0]
    if part == "sends":
        dist.recv(first, 0, connection)
    else:
        dist.send(first, 0, connection)
    then()


def cross_alone(alone: World, plan: Plan, part: str, port: int, deadlines: Deadlines) -> str:
    world = World.join(member_of_two(0, deadlines), store_at(port))
    end = open_end(world, connect(world))
    whole = [Transfer(1, torch.zeros(60 * MOST, dtype=torch.uint8))]
    with pytest.raises(PeerError) as raised:
        cross(world, end, whole if part == "sends" else [], whole if part == "receives" else [])
    world.free()
    world.abandon()
    return str(raised.value)
