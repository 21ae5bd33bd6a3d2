"""Messages between real processes: sizes, order, gathers, and what a worker sends itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.parallel.comm.world import Membership, World
from dougong.parallel.plan import Plan
from tests.parallel.workers import plan_of
from tests.processes import run_workers
from torch.distributed import TCPStore


def piece(sender: int, receiver: int, turn: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What `sender` gives `receiver`: its size says who, turn 1 sends nothing to some."""
    size = 0 if turn == 1 and (sender + receiver) % 2 else 1 + 3 * sender + 5 * receiver + turn
    return torch.arange(size).add(1000 * sender + 100 * receiver + 10 * turn).to(dtype)


def exchange_in_turns(world: World) -> list[bool]:
    """Several exchanges one after the other, in several dtypes and shapes, also with oneself."""
    right = []
    for turn, dtype in enumerate((torch.float32, torch.int64, torch.bfloat16, torch.float64)):
        everybody = range(world.size)
        outgoing = {r: piece(world.rank, r, turn, dtype) for r in everybody}
        incoming = {r: torch.full_like(piece(r, world.rank, turn, dtype), 9) for r in everybody}
        world.exchange(outgoing, incoming)
        right += [torch.equal(incoming[r], piece(r, world.rank, turn, dtype)) for r in everybody]
    return right


def send_one_way(world: World) -> bool:
    """Only rank 0 sends and only rank 2 receives."""
    outgoing = {2: torch.full((3, 2), 7.0)} if world.rank == 0 else {}
    incoming = {0: torch.zeros(3, 2)} if world.rank == 2 else {}
    world.exchange(outgoing, incoming)
    return all(bool((t == 7).all()) for t in incoming.values())


def gather_unevenly(world: World) -> list[list[float]]:
    mine = [world.rank + i / 10 for i in range(world.rank)]  # rank 0 has nothing to say
    return world.gather(mine, list(range(world.size)))


LARGE = 2**62
"""A whole number that float64 does not hold together with 1."""


def add_up(world: World, plan: Plan) -> tuple[list[int], list[int]]:
    mine = torch.tensor([world.rank, LARGE if world.rank == 1 else 1])
    return world.add_counts(mine).tolist(), mine.tolist()


def test_whole_numbers_are_added_exactly_and_in_a_new_tensor() -> None:
    results = run_workers(add_up, plan_of("BBB"))
    assert [total for total, _ in results] == [[3, LARGE + 2]] * 3
    assert [mine for _, mine in results] == [[0, 1], [1, LARGE], [2, 1]]
    assert World.alone().add_counts(torch.tensor([5])).tolist() == [5]


def test_floats_are_not_added_by_a_library() -> None:
    with pytest.raises(AssertionError, match="only whole numbers"):
        World.alone().add_counts(torch.tensor([1.0]))


def everything(world: World, plan: Plan) -> tuple[Any, ...]:
    before = world.bytes_sent
    one_way = send_one_way(world)
    return exchange_in_turns(world), one_way, world.bytes_sent - before, gather_unevenly(world), world.barrier()


def test_three_processes_exchange_and_gather() -> None:
    results = run_workers(everything, plan_of("BBB"))
    for rank, (exchanged, one_way, _, gathered, _) in enumerate(results):
        assert exchanged == [True] * 12 and one_way, rank
        assert gathered == [[], [1.0], [2.0, 2.1]], rank
    sizes = [
        sum(
            piece(sender, receiver, turn, dtype).nbytes
            for turn, dtype in enumerate((torch.float32, torch.int64, torch.bfloat16, torch.float64))
            for receiver in range(3)
            if receiver != sender
        )
        for sender in range(3)
    ]
    assert [r[2] for r in results] == [sizes[0] + 24, *sizes[1:]], "bytes to others are counted, to oneself not"


def test_a_world_of_one_keeps_its_messages() -> None:
    world = World.alone()
    assert exchange_in_turns(world) == [True] * 4
    assert world.bytes_sent == 0 and world.gather([1.5, 2.5], [2]) == [[1.5, 2.5]]
    world.barrier()
    world.leave()


def test_values_of_another_number_than_announced_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="rank 0 gathers 2 values, 3 due"):
        World.alone().gather([1.0, 2.0], [3])


def join_too_few(world: World, plan: Plan, port: int) -> str:
    """Join a world of two whose other worker never comes."""
    member = Membership(
        0,
        2,
        5,
        "east",
        (("east", "gloo", (0, 1)),),
        torch.device("cpu"),
        (0, 1),
        deadlines=Deadlines(rendezvous_s=1.0),
    )
    with pytest.raises(LaunchError) as caught:
        World.join(member, ("127.0.0.1", port))
    return str(caught.value)


def test_a_worker_that_waits_in_vain_for_others_says_where() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (message,) = run_workers(join_too_few, plan_of("B"), store.port)
    assert f"worker 0 of 2 could not join generation 5 at 127.0.0.1:{store.port}: " in message
    assert message.endswith("check that every node reaches that address")
