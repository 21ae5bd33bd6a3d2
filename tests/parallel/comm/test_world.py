"""Transfers and gathers between real processes: sizes, order, and who is missing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.parallel.lost_peer import member_of_two, survive
from tests.parallel.workers import plan_of
from tests.processes import CONTEXT, run_workers
from tests.stores import store_at
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

DTYPES = (torch.float32, torch.int64, torch.bfloat16, torch.float64)


def piece(sender: int, receiver: int, turn: int) -> Tensor:
    """What `sender` gives `receiver`: its size says who, turn 1 sends nothing to some."""
    size = 0 if turn == 1 and (sender + receiver) % 2 else 1 + 3 * sender + 5 * receiver + turn
    return torch.arange(size).add(1000 * sender + 100 * receiver + 10 * turn).to(DTYPES[turn])


def transfer_in_turns(world: World) -> list[bool]:
    """Several transfers under way at once, in several dtypes; two messages to each peer in each."""
    others = [rank for rank in range(world.size) if rank != world.rank]
    under_way, arriving = [], []
    for turn in range(len(DTYPES)):
        sends = [Transfer(r, piece(world.rank, r, turn) + copy) for r in others for copy in (0, 1)]
        receives = [Transfer(r, torch.full_like(piece(r, world.rank, turn), 9)) for r in others for _ in (0, 1)]
        under_way.append(world.transfer(TrafficKind.SUMS, sends, receives, "a test"))
        arriving.append(receives)
    right = []
    for turn, (pending, receives) in enumerate(zip(under_way, arriving, strict=True)):
        pending.wait()
        assert pending.is_done()
        expected = [piece(r, world.rank, turn) + copy for r in others for copy in (0, 1)]
        right += [torch.equal(t.tensor, e) for t, e in zip(receives, expected, strict=True)]
    return right


def send_one_way(world: World) -> bool:
    """Only rank 0 sends and only rank 2 receives."""
    sends = [Transfer(2, torch.full((3, 2), 7.0))] if world.rank == 0 else []
    receives = [Transfer(0, torch.zeros(3, 2))] if world.rank == 2 else []
    world.transfer(TrafficKind.SUMS, sends, receives, "one way").wait()
    return all(bool((transfer.tensor == 7).all()) for transfer in receives)


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
    one_way = send_one_way(world)
    before = world.sent.total(TrafficKind.SUMS)
    right = transfer_in_turns(world)
    sent = world.sent.total(TrafficKind.SUMS) - before
    mine = bytes([world.rank]) * world.rank  # rank 0 has nothing to say
    known, unknown = world.gather_bytes(mine, [0, 1, 2]), world.gather_bytes(mine)
    world.barrier()
    return right, one_way, sent, known, unknown


def test_three_processes_transfer_and_gather() -> None:
    results = run_workers(everything, plan_of("BBB"))
    for rank, (right, one_way, sent, known, unknown) in enumerate(results):
        assert right == [True] * 16 and one_way, rank
        assert known == unknown == [b"", b"\x01", b"\x02\x02"], rank
        others = [r for r in range(3) if r != rank]
        assert sent == sum(2 * piece(rank, r, turn).nbytes for r in others for turn in range(len(DTYPES)))


def test_a_world_of_one_keeps_its_values() -> None:
    world = World.alone()
    world.transfer(TrafficKind.SUMS, [], [], "nothing").wait()
    assert world.sent.total() == 0 and world.gather_bytes(b"all") == [b"all"]
    world.barrier()
    world.leave()


def test_bytes_of_another_number_than_announced_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="rank 0 gathers 2 bytes, 3 due"):
        World.alone().gather_bytes(b"ab", [3])


def test_what_must_end_with_the_world_is_ended_once() -> None:
    world, ended = World.alone(), []
    world.at_leaving(lambda: ended.append(True))
    world.leave()
    world.leave()
    assert ended == [True]


def wait_in_vain(world: World, plan: Plan, done: Any) -> list[str]:
    """Rank 0 waits for a transfer, and for a gather, that rank 1 takes no part in, though it is there."""
    world.begin_step(4)
    said = []
    if world.rank == 0:
        with pytest.raises(PeerError) as caught:
            world.transfer(TrafficKind.SUMS, [], [Transfer(1, torch.zeros(3))], "gradients of bucket 2").wait()
        said.append(str(caught.value))
        with pytest.raises(PeerError) as caught:
            world.gather_bytes(b"a", [1, 1], "losses")
        said.append(str(caught.value))
        done.set()
    done.wait(60)
    return said


def test_a_peer_that_does_not_come_is_named_with_the_key() -> None:
    said = run_workers(wait_in_vain, plan_of("BB"), CONTEXT.Event(), deadlines=Deadlines(message_s=1.0))[0]
    wait = "worker 0 (east/0) waited 1 s (fault.deadlines.message_s) for worker 1 (east/1): "
    assert said[0] == f"{wait}gradients of bucket 2, step 4"
    assert said[1] == f"{wait}losses, step 4"


def meet_late(world: World, plan: Plan) -> str:
    """Rank 1 comes after the time that a message may take, and within that of the last saves."""
    if world.rank:
        time.sleep(2.0)
    world.barrier("last_saves_s")
    return "all are there"


def test_who_has_saved_waits_for_who_still_saves() -> None:
    deadlines = Deadlines(message_s=0.5, commit_checkpoint_s=30.0)
    assert run_workers(meet_late, plan_of("BB"), deadlines=deadlines) == ["all are there"] * 2


def join_too_few(world: World, plan: Plan, port: int) -> str:
    """Join a world of three of whom one never comes."""
    islands = (("east", "gloo", (0, 1, 2)),)
    member = Membership(
        0, 3, 5, "east", islands, torch.device("cpu"), (0, 1, 2), ("east/0", "east/1", "east/2"),
        Deadlines(rendezvous_s=1.0),
    )  # fmt: skip
    store_at(port, 5).set("arrived-1", "")
    with pytest.raises(PeerError) as caught:
        World.join(member, store_at(port, member.generation))
    return str(caught.value)


def test_a_worker_that_waits_in_vain_for_others_says_where_and_for_whom() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (message,) = run_workers(join_too_few, plan_of("B"), store.port)
    assert message == (
        "worker 0 (east/0) of 3 could not join generation 5: it waited 1 s (fault.deadlines.rendezvous_s) for worker 2 "
        "(east/2)"
    )


def do_everything_with_a_dead_peer(world: World) -> list[str]:
    """Each operation with a peer that is known to be dead fails at its start already."""
    world.begin_step(4)
    operations = {
        "updated parameters": lambda: world.transfer(
            TrafficKind.SUMS, [Transfer(1, torch.zeros(3))], [], "updated parameters"
        ),
        "gradients": lambda: world.transfer(TrafficKind.SUMS, [], [Transfer(1, torch.zeros(3))], "gradients"),
        "losses": lambda: world.gather_bytes(b"a", [1, 1], "losses"),
        "a sum of counts": lambda: world.add_counts(torch.tensor([1])),
        "all workers at one point": world.barrier,
    }
    said = []
    for operation in operations.values():
        with pytest.raises(PeerError) as caught:
            operation()
        said.append(str(caught.value))
    starts = [f"worker 0 (east/0) lost worker 1 (east/1): {what}, step 4: " for what in operations]
    assert all(words.startswith(start) for words, start in zip(said, starts, strict=True)), said
    return said


def test_a_peer_that_has_died_is_named_by_whatever_is_begun_with_it() -> None:
    assert len(survive(do_everything_with_a_dead_peer)) == 5


def come_without_groups(port: int, makes_first: bool) -> None:
    """Rank 1 comes to the store, makes the first group or none, and then stands still."""
    store = store_at(port)
    store.set("arrived-1", "")
    if makes_first:
        dist.init_process_group("gloo", store=store, rank=1, world_size=2, timeout=timedelta(seconds=60))
    threading.Event().wait()


def make_groups_in_vain(alone: World, plan: Plan, port: int) -> str:
    with pytest.raises(PeerError) as caught:
        World.join(member_of_two(0, Deadlines(message_s=3.0)), store_at(port))
    return str(caught.value)


@pytest.mark.parametrize("makes_first", [False, True], ids=["no group", "the first group only"])
def test_a_peer_that_makes_no_groups_is_named_with_the_key(makes_first: bool) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    peer = CONTEXT.Process(target=come_without_groups, args=(store.port, makes_first), daemon=True)
    peer.start()
    try:
        (said,) = run_workers(make_groups_in_vain, plan_of("B"), store.port)
    finally:
        peer.kill()
        peer.join(10)
    assert said == (
        "worker 0 (east/0) waited 3 s (fault.deadlines.message_s) for worker 1 (east/1): process groups of generation 1"
    )


def join_apart(alone: World, plan: Plan, rank: int, port: int) -> bool:
    """A worker of attention and one of experts, each an island of devices of its own: whether a native group is
    there."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401  it brings the backend `fake`

    islands = (("east", "fake", (0,)), ("west", "fake", (1,)))
    names, island = ("east/0", "west/0"), ("east", "west")[rank]
    member = Membership(rank, 2, 1, island, islands, torch.device("cpu"), (0,), names)
    world = World.join(member, store_at(port, member.generation))
    found = world.native is not None or bool(world.native_groups)
    world.barrier()
    world.leave()
    return found


def test_islands_of_devices_with_one_worker_join_without_a_native_group() -> None:
    """To torch an empty list of ranks means everybody, and a group of one sends nothing."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run_workers, join_apart, plan_of("B"), rank, store.port) for rank in (0, 1)]
        assert [one.result(60) for one in both] == [[False]] * 2
