"""Messages between attention and experts: what is in them arrives, in order, while the worker does something else; a
peer that does not come is named."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.exchange import EmulatedLink, Exchange, Expected
from dougong.parallel.comm.message import HEAD_BYTES, TensorMessage
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from tests.parallel.workers import plan_of
from tests.processes import CONTEXT, run_workers
from torch import Tensor

KEYS = [(site, microbatch) for microbatch in range(3) for site in range(2)]


def parts_of(key: tuple[int, int]) -> list[Tensor]:
    """Every dtype and shape that messages have, empty ones among them."""
    site, microbatch = key
    return [
        torch.arange(4).view(2, 2) + site,
        torch.full((microbatch, 3), 0.5 + site),
        torch.full((microbatch,), microbatch, dtype=torch.int32),
        torch.ones(2, 3, dtype=torch.bfloat16),
    ]


def correspond(world: World, plan: Plan, link: EmulatedLink | None) -> list[bool]:
    """Rank 0 asks, the others return what they got."""
    exchange, peers = Exchange(world, link), tuple(range(1, world.size))
    first = world.rank == 0
    sides = ((peers, ()), ((), peers)) if first else (((), (0,)), ((0,), ()))
    for kind, (targets, sources) in zip((MessageKind.ROWS, MessageKind.OUTPUTS), sides, strict=True):
        exchange.expect(kind, [Expected(key, targets, sources) for key in KEYS])
    right = []
    if first:
        for key in KEYS:
            exchange.send(MessageKind.ROWS, key, {rank: TensorMessage(parts_of(key)) for rank in peers})
        for key in reversed(KEYS):  # read in another order than they come
            messages = exchange.receive(MessageKind.OUTPUTS, key)
            assert list(messages) == list(peers)
            for message in messages.values():
                right += [torch.equal(a, b) for a, b in zip(message.parts, parts_of(key), strict=True)]
        sizes = [HEAD_BYTES + parts_of(key)[0].nbytes for key in KEYS]
        values = [part.nbytes for key in KEYS for part in parts_of(key)[1:]]
        right.append(world.sent.total(TrafficKind.SIZES) == sum(sizes) * len(peers))
        right.append(world.sent.total(TrafficKind.ROWS) == sum(values) * len(peers))
        messages = 2 * len(sizes) + sum(map(bool, values))  # a head, whole numbers, and what is not empty
        right.append(int(world.sent.num_messages.sum()) == messages * len(peers))
    else:
        for key in KEYS:
            exchange.send(MessageKind.OUTPUTS, key, {0: exchange.receive(MessageKind.ROWS, key)[0]})
    exchange.finish()
    exchange.close()
    return right


@pytest.mark.parametrize("link", [None, EmulatedLink(1e9, 0.001)], ids=["as it is", "emulated"])
def test_messages_arrive_as_they_were_sent(link: EmulatedLink | None) -> None:
    results = run_workers(correspond, plan_of("AEE"), link)
    assert len(results[0]) == 2 * 4 * len(KEYS) + 3 and all(results[0])


def wait_in_vain(world: World, plan: Plan, done: Any) -> str | None:
    """Rank 0 waits for expert outputs that rank 2 never sends; rank 1 sends its own. Both stay until it gives up."""
    exchange = Exchange(world, names=("model.layers.0.mlp.experts", "model.layers.1.mlp.experts"))
    exchange.begin_step(7)
    said = None
    if world.rank == 0:
        exchange.expect(MessageKind.OUTPUTS, [Expected((1, 3), (), (1, 2))])
        with pytest.raises(PeerError) as caught:
            exchange.receive(MessageKind.OUTPUTS, (1, 3))
        said = str(caught.value)
        done.set()
    elif world.rank == 1:
        exchange.expect(MessageKind.OUTPUTS, [Expected((1, 3), (0,), ())])
        exchange.send(MessageKind.OUTPUTS, (1, 3), {0: TensorMessage(parts_of((1, 3)))})
    done.wait(60)
    exchange.close()
    return said


def test_a_peer_that_never_sends_is_named_with_the_place_and_the_key() -> None:
    said = run_workers(wait_in_vain, plan_of("AEE"), CONTEXT.Event(), deadlines=Deadlines(message_s=2.0))[0]
    assert said == (
        "worker 0 (east/0) waited 2 s (fault.deadlines.message_s) for worker 2 (east/2): expert outputs of "
        "site 1 (model.layers.1.mlp.experts), micro-batch 3, step 7"
    )


def lose_a_peer(world: World, plan: Plan) -> str | None:
    """Rank 1 ends before rank 0 has got anything from it."""
    if world.rank == 1:
        return None
    exchange = Exchange(world)
    exchange.expect(MessageKind.OUTPUTS, [Expected((0, 0), (), (1,))])
    with pytest.raises(PeerError) as caught:
        exchange.receive(MessageKind.OUTPUTS, (0, 0))
    exchange.close()
    return str(caught.value)


def test_a_peer_that_has_ended_is_named_at_once() -> None:
    said = run_workers(lose_a_peer, plan_of("AE"))[0]
    assert said.startswith(
        "worker 0 (east/0) lost worker 1 (east/1): expert outputs of site 0, micro-batch 0, step 0: "
    )


def test_a_message_to_oneself_is_there_at_once() -> None:
    world = World.alone()
    exchange = Exchange(world)
    exchange.expect(MessageKind.ROWS, [Expected((0, 0), (), ())])
    exchange.send(MessageKind.ROWS, (0, 0), {0: TensorMessage(parts_of((0, 0)))})
    (message,) = exchange.receive(MessageKind.ROWS, (0, 0)).values()
    assert all(torch.equal(a, b) for a, b in zip(message.parts, parts_of((0, 0)), strict=True))
    assert world.sent.total() == 0
    exchange.finish()
    exchange.close()


def test_a_link_takes_its_latency_and_its_bytes() -> None:
    assert EmulatedLink(1e6, 0.5).seconds(250_000) == pytest.approx(0.75)


def never_send(world: World, plan: Plan) -> int:
    """Leave while the thread still waits for what this worker would send."""
    before = threading.active_count()
    exchange = Exchange(world)
    exchange.expect(MessageKind.ROWS, [Expected((0, 0), (1 - world.rank,), ())])
    during = threading.active_count()
    world.leave()
    for thread in threading.enumerate():
        if thread.name.startswith("dougong-rows"):
            thread.join(30)
    return during - before - sum(t.name.startswith("dougong-rows") for t in threading.enumerate())


def test_its_threads_end_with_the_world() -> None:
    assert run_workers(never_send, plan_of("AE")) == [1, 1]
