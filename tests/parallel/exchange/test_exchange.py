"""Messages between attention and experts: what is in them arrives, in order, while the worker does something else; a
peer that does not come is named."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

import pytest
import torch
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.message import PartRoom, SplitTensor, TableSpec
from dougong.parallel.comm.peers import Sides
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.parallel.exchange.channel import EmulatedLink
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import Expected, Outgoing
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from tests.parallel.workers import plan_of
from tests.processes import CONTEXT, run_workers
from torch import Tensor

KEYS = [(site, microbatch) for microbatch in range(3) for site in range(2)]


def parts_of(key: tuple[int, int], sender: int, receiver: int) -> list[Tensor]:
    """What goes from one to another: every dtype and shape that messages have, empty ones among them."""
    site, microbatch = key
    rows = (sender + 2 * receiver + microbatch) % 3
    return [
        torch.full((rows, 3), 0.5 + site + 10 * sender),
        torch.full((rows,), microbatch + 100 * receiver, dtype=torch.int32),
        torch.ones(2, 3, dtype=torch.bfloat16),
    ]


def split(parts: list[list[Tensor]]) -> list[SplitTensor]:
    """By peer, then part: as parts."""
    return [SplitTensor(torch.cat(of), [len(one) for one in of]) for of in zip(*parts, strict=True)]


def rooms_of(parts: list[list[Tensor]]) -> list[PartRoom]:
    return [PartRoom(one.sizes, tuple(one.values.shape[1:]), one.values.dtype) for one in split(parts)]


def numbers_of(key: tuple[int, int], sender: int, receiver: int) -> Tensor:
    """A share of a table: room for its label, and a number for each receiver."""
    return torch.tensor([0, 0, 0, 0, *[100 * sender + 10 * receiver + key[1]] * (1 + receiver)])


def table_of(key: tuple[int, int], world: World, sides: Sides) -> TableSpec:
    def rooms(table: Tensor) -> list[PartRoom]:
        due = torch.cat([numbers_of(key, sender, world.rank)[4:] for sender in sides.senders])
        width = 5 + world.rank
        assert torch.equal(table.view(-1, width)[:, 4:].reshape(-1), due)
        return rooms_of([parts_of(key, sender, world.rank) for sender in sides.senders])

    sends = [5 + receiver for receiver in sides.receivers] if world.rank in sides.senders else ()
    receives = [5 + world.rank] * len(sides.senders) if world.rank in sides.receivers else ()
    return TableSpec(sends, receives, rooms)


def correspond(world: World, plan: Plan, link: EmulatedLink | None) -> list[bool]:
    """Rows with a table ahead, then outputs without one, between the sides of a plan; what arrives in other order than
    it is sent."""
    exchange = Exchange(world, link)
    asking = tuple(worker.rank for worker in plan.workers if worker.lanes)
    serving = tuple(worker.rank for worker in plan.workers if worker.num_experts)
    there, back = Sides(asking, serving), Sides(serving, asking)
    for key in KEYS:
        table = table_of(key, world, there)
        exchange.expect([Expected(MessageKind.ROWS, key, there, 3, table), Expected(MessageKind.OUTPUTS, key, back, 3)])
    me, right = world.rank, []
    if me in asking:
        for key in KEYS:
            outgoing = split([parts_of(key, me, receiver) for receiver in serving])
            numbers = torch.cat([numbers_of(key, me, receiver) for receiver in serving])
            rooms = rooms_of([parts_of(key, sender, me) for sender in serving])
            exchange.make_room(MessageKind.OUTPUTS, key, rooms)
            exchange.send(MessageKind.ROWS, key, Outgoing(outgoing, numbers))
    if me in serving:
        for key in KEYS:
            received = exchange.receive(MessageKind.ROWS, key)
            due = split([parts_of(key, sender, me) for sender in asking])
            right += [torch.equal(a, b.values) for a, b in zip(received.parts, due, strict=True)]
            outgoing = split([parts_of(key, me, receiver) for receiver in asking])
            exchange.send(MessageKind.OUTPUTS, key, Outgoing(outgoing))
    if me in asking:
        for key in reversed(KEYS):
            received = exchange.receive(MessageKind.OUTPUTS, key)
            due = split([parts_of(key, sender, me) for sender in serving])
            right += [torch.equal(a, b.values) for a, b in zip(received.parts, due, strict=True)]
    exchange.finish()
    exchange.close()
    others = [rank for rank in serving if rank != me] if me in asking else []
    shares = [parts_of(key, me, receiver) for key in KEYS for receiver in others]
    values = [part.nbytes for parts in shares for part in parts]
    right.append(world.sent.total(TrafficKind.ROWS) == sum(values))
    right.append(world.sent.total(TrafficKind.SIZES) == sum(8 * (5 + receiver) * len(KEYS) for receiver in others))
    rows = TrafficKind.ROWS.number
    right.append(
        int(world.sent.num_messages[rows].sum()) == sum(map(bool, values)),
    )
    return right


@pytest.mark.parametrize("link", [None, EmulatedLink(1e9, 0.001)], ids=["as it is", "emulated"])
@pytest.mark.parametrize("roles", ["AEE", "BBB"])
def test_messages_arrive_as_they_were_sent(roles: str, link: EmulatedLink | None) -> None:
    results = run_workers(correspond, plan_of(roles), link)
    assert all(all(right) and len(right) > 3 for right in results)


@pytest.mark.parametrize("roles", ["AEE", "BBB"])
def test_messages_between_islands_arrive_too(roles: str) -> None:
    """The first two in one island, the third in another."""
    results = run_workers(correspond, plan_of(roles), None, islands=(("east", (0, 1)), ("west", (2,))))
    assert all(all(right) and len(right) > 3 for right in results)


SIZES = [2, 2, 2]


def one_part(world: World) -> list[SplitTensor]:
    return [SplitTensor(torch.full((6,), float(world.rank)), SIZES)]


def expect_of_all(world: World, exchange: Exchange, key: tuple[int, int]) -> None:
    everybody = tuple(range(world.size))
    exchange.expect([Expected(MessageKind.OUTPUTS, key, Sides(everybody, everybody), 1)])
    exchange.make_room(MessageKind.OUTPUTS, key, [PartRoom(SIZES[: world.size], (), torch.float32)])


def wait_in_vain(world: World, plan: Plan, done: Any) -> str | None:
    """Rank 2 never sends; ranks 0 and 1 send theirs. All stay until rank 0 gives up."""
    exchange = Exchange(world, names=("model.layers.0.mlp.experts", "model.layers.1.mlp.experts"))
    exchange.begin_step(7)
    said = None
    if world.rank != 2:
        expect_of_all(world, exchange, (1, 3))
        exchange.send(MessageKind.OUTPUTS, (1, 3), Outgoing(one_part(world)))
    if world.rank == 0:
        with pytest.raises(PeerError) as caught:
            exchange.receive(MessageKind.OUTPUTS, (1, 3))
        said = str(caught.value)
        done.set()
    done.wait(60)
    exchange.close()
    return said


def test_a_peer_that_never_sends_is_among_those_named_with_the_place_and_the_key() -> None:
    said = run_workers(wait_in_vain, plan_of("BBB"), CONTEXT.Event(), deadlines=Deadlines(message_s=6.0))[0]
    assert said == (
        "worker 0 (east/0) waited 6 s (fault.deadlines.message_s) for workers 1 (east/1), 2 (east/2): expert outputs "
        "of site 1 (model.layers.1.mlp.experts), micro-batch 3, step 7"
    )


def lose_a_peer(world: World, plan: Plan) -> str | None:
    """Rank 1 ends before rank 0 has got anything from it."""
    if world.rank == 1:
        return None
    exchange = Exchange(world)
    everybody = (0, 1)
    exchange.expect([Expected(MessageKind.OUTPUTS, (0, 0), Sides(everybody, everybody), 1)])
    exchange.make_room(MessageKind.OUTPUTS, (0, 0), [PartRoom([1, 1], (), torch.float32)])
    exchange.send(MessageKind.OUTPUTS, (0, 0), Outgoing([SplitTensor(torch.zeros(2), [1, 1])]))
    with pytest.raises(PeerError) as caught:
        exchange.receive(MessageKind.OUTPUTS, (0, 0))
    exchange.close()
    return str(caught.value)


def test_a_peer_that_has_ended_is_named_at_once() -> None:
    said = run_workers(lose_a_peer, plan_of("BB"))[0]
    assert said.startswith(
        "worker 0 (east/0) lost worker 1 (east/1): expert outputs of site 0, micro-batch 0, step 0: "
    )


def test_a_message_to_oneself_is_there_at_once() -> None:
    world = World.alone()
    exchange = Exchange(world)
    exchange.expect([Expected(MessageKind.OUTPUTS, (0, 0), Sides((0,), (0,)), 3)])
    sent = split([parts_of((0, 0), 0, 0)])
    exchange.send(MessageKind.OUTPUTS, (0, 0), Outgoing(sent))
    received = exchange.receive(MessageKind.OUTPUTS, (0, 0))
    assert all(torch.equal(a, b.values) for a, b in zip(received.parts, sent, strict=True))
    assert world.sent.total() == 0
    exchange.finish()
    exchange.close()


def let_go(world: World, plan: Plan) -> bool:
    """Rank 0 sends and takes nothing; whether its message is gone while the step goes on."""
    exchange = Exchange(world)
    for key in KEYS[:2]:
        exchange.expect([Expected(MessageKind.OUTPUTS, key, Sides((0,), (1,)), 1)])
    if world.rank == 1:
        for key in KEYS[:2]:
            exchange.make_room(MessageKind.OUTPUTS, key, [PartRoom([1000], (), torch.float32)])
            exchange.receive(MessageKind.OUTPUTS, key)
        exchange.finish()
        exchange.close()
        return True
    values = torch.zeros(1000)
    seen = weakref.ref(values.untyped_storage())
    exchange.send(MessageKind.OUTPUTS, KEYS[0], Outgoing([SplitTensor(values, [1000])]))
    del values
    until = time.monotonic() + 60
    while seen() is not None and time.monotonic() < until:
        time.sleep(0.001)
    gone = seen() is None
    exchange.send(MessageKind.OUTPUTS, KEYS[1], Outgoing([SplitTensor(torch.zeros(1000), [1000])]))
    exchange.finish()
    exchange.close()
    return gone


@pytest.mark.parametrize("islands", [(("east", (0, 1)),), (("east", (0,)), ("west", (1,)))], ids=["one", "two"])
def test_what_has_been_sent_is_held_no_longer(islands: Any) -> None:
    assert run_workers(let_go, plan_of("AE"), islands=islands)[0]


def never_send(world: World, plan: Plan) -> int:
    """Leave while the thread still waits for what this worker would send."""
    before = threading.active_count()
    exchange = Exchange(world)
    everybody = (0, 1)
    exchange.expect([Expected(MessageKind.ROWS, (0, 0), Sides(everybody, everybody), 1)])
    during = threading.active_count()
    world.leave()
    for thread in threading.enumerate():
        if thread.name.startswith("dougong-rows"):
            thread.join(30)
    return during - before - sum(t.name.startswith("dougong-rows") for t in threading.enumerate())


def test_its_threads_end_with_the_world() -> None:
    assert run_workers(never_send, plan_of("AE")) == [1, 1]
