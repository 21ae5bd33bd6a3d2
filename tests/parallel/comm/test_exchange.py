"""Letters: what is in them arrives, in the order of the line, while the worker does something else."""

from __future__ import annotations

import threading

import pytest
import torch
from dougong.parallel.comm.exchange import EmulatedLink, Exchange, Expected, TensorMessage
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from tests.parallel.workers import plan_of
from tests.processes import run_workers
from torch import Tensor

KEYS = [(site, microbatch) for microbatch in range(3) for site in range(2)]


def parts_of(key: tuple[int, int]) -> list[Tensor]:
    """Every dtype and shape that letters have, empty ones among them."""
    site, microbatch = key
    return [
        torch.arange(4).view(2, 2) + site,
        torch.full((microbatch, 3), 0.5 + site),
        torch.full((microbatch,), microbatch, dtype=torch.int32),
        torch.ones(2, 3, dtype=torch.bfloat16),
    ]


def correspond(world: World, plan: Plan, link: EmulatedLink | None) -> list[bool]:
    """Rank 0 asks, the others answer with what they got; rank 1 also writes to itself."""
    mail, peers = Exchange(world, link), tuple(range(1, world.size))
    first = world.rank == 0
    sides = ((peers, ()), ((), peers)) if first else (((), (0,)), ((0,), ()))
    for message, (targets, sources) in zip((MessageKind.ROWS, MessageKind.OUTPUTS), sides, strict=True):
        mail.expect(message, [Expected(key, targets, sources) for key in KEYS])
    right = []
    if first:
        for key in KEYS:
            mail.send(MessageKind.ROWS, key, {rank: TensorMessage(parts_of(key)) for rank in peers})
        for key in reversed(KEYS):  # read in another order than they come
            letters = mail.receive(MessageKind.OUTPUTS, key)
            assert list(letters) == list(peers)
            right += [
                torch.equal(a, b) for of in letters.values() for a, b in zip(of.parts, parts_of(key), strict=True)
            ]
        expected = sum(t.numel() * t.element_size() for key in KEYS for t in parts_of(key)) * len(peers)
        right.append(mail.bytes_sent[MessageKind.ROWS] == expected)
    else:
        for key in KEYS:
            mail.send(MessageKind.OUTPUTS, key, {0: mail.receive(MessageKind.ROWS, key)[0]})
    mail.finish()
    mail.close()
    return right


@pytest.mark.parametrize("link", [None, EmulatedLink(1e9, 0.001)], ids=["as it is", "emulated"])
def test_letters_arrive_as_they_were_written(link: EmulatedLink | None) -> None:
    results = run_workers(correspond, plan_of("AEE"), link)
    assert len(results[0]) == 2 * 4 * len(KEYS) + 1 and all(results[0])


def test_a_letter_to_oneself_is_there_at_once() -> None:
    mail = Exchange(World.alone())
    mail.expect(MessageKind.ROWS, [Expected((0, 0), (), ())])
    mail.send(MessageKind.ROWS, (0, 0), {0: TensorMessage(parts_of((0, 0)))})
    (letter,) = mail.receive(MessageKind.ROWS, (0, 0)).values()
    assert all(torch.equal(a, b) for a, b in zip(letter.parts, parts_of((0, 0)), strict=True))
    assert mail.bytes_sent[MessageKind.ROWS] == 0
    mail.finish()
    mail.close()


def test_a_link_takes_its_latency_and_its_bytes() -> None:
    assert EmulatedLink(1e6, 0.5).seconds(250_000) == pytest.approx(0.75)


def test_its_threads_end() -> None:
    before = threading.active_count()
    mail = Exchange(World.alone())
    mail.expect(MessageKind.ROWS, [])
    mail.close()
    assert threading.active_count() == before
