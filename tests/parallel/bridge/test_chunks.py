"""Both ends cut a message alike, and take chunks in orders that fit together."""

from __future__ import annotations

import itertools

import pytest
import torch
from dougong.parallel.bridge.chunks import Chunk, ChunkRule, arriving, leaving
from dougong.parallel.comm.transfer import Transfer

RULE = ChunkRule(parts=4, least_bytes=8, most_bytes=32, num_connections=2)


def sizes(num_bytes: int, rule: ChunkRule = RULE) -> list[int]:
    return [chunk.num_bytes for chunk in rule.chunks(Transfer(1, torch.zeros(num_bytes, dtype=torch.uint8)))]


@pytest.mark.parametrize(
    ("num_bytes", "due"),
    [
        (0, []), (1, [1]), (7, [7]), (8, [8]), (9, [8, 1]), (32, [8] * 4), (33, [9, 9, 9, 6]), (128, [32] * 4),
        (129, [32] * 4 + [1]),
    ],
)  # fmt: skip
def test_a_message_is_cut_in_parts_that_are_neither_small_nor_large(num_bytes: int, due: list[int]) -> None:
    assert sizes(num_bytes) == due


def test_the_parts_are_the_whole_and_take_connections_by_turns() -> None:
    values = torch.arange(40, dtype=torch.int16)
    chunks = list(RULE.chunks(Transfer(1, values)))
    assert torch.equal(torch.cat([chunk.tensor for chunk in chunks]).view(torch.int16), values)
    assert [chunk.connection for chunk in chunks] == [0, 1, 0, 1]


def test_a_number_without_dimensions_is_a_message() -> None:
    (chunk,) = RULE.chunks(Transfer(1, torch.tensor(3.0)))
    assert chunk.tensor.view(torch.float32).tolist() == [3.0]


SIZE = 5
Lists = dict[int, list[Chunk]]


def test_many_workers_with_room_for_one_chunk_never_wait_in_a_circle() -> None:
    """Every worker sends every other one messages of several sizes, and has room for one chunk in either direction."""
    lengths = {}
    for one, other in itertools.permutations(range(SIZE), 2):
        lengths[one, other] = [(17 * one + 5 * other) % 70, 40, (3 * one + other) % 9]
    out, into = lists_of(lengths)
    assert play(out, into) == 0


def test_in_other_orders_they_do() -> None:
    """Two senders and two receivers, who take what they have in orders that do not fit together."""
    lengths = {(sender, receiver): [8] for sender in (0, 1) for receiver in (2, 3)}
    out, into = lists_of(lengths)
    assert play(out, into) == 0
    out, into = lists_of(lengths)
    out[0].sort(key=lambda chunk: chunk.transfer.rank)
    out[1].sort(key=lambda chunk: -chunk.transfer.rank)
    into[2].sort(key=lambda chunk: -chunk.transfer.rank)
    into[3].sort(key=lambda chunk: chunk.transfer.rank)
    assert play(out, into) == 4, "nobody moves"


def lists_of(lengths: dict[tuple[int, int], list[int]]) -> tuple[Lists, Lists]:
    """What every worker sends and receives, in its own order."""
    out = {rank: leaving(RULE, transfers(lengths, rank, True), rank, SIZE) for rank in range(SIZE)}
    into = {rank: arriving(RULE, transfers(lengths, rank, False), rank, SIZE) for rank in range(SIZE)}
    return out, into


def play(out: Lists, into: Lists) -> int:
    """How many chunks are left when none moves any more: one does when both of its ends are at it."""
    while moved := [rank for rank in out if out[rank] and is_next(rank, out[rank][0], into)]:
        for rank in moved:
            into[out[rank][0].transfer.rank].pop(0)
            out[rank].pop(0)
    return sum(map(len, out.values()))


def transfers(lengths: dict[tuple[int, int], list[int]], rank: int, sends: bool) -> list[Transfer]:
    found = []
    for (sender, receiver), sizes_of in lengths.items():
        if rank == (sender if sends else receiver):
            peer = receiver if sends else sender
            found += [Transfer(peer, torch.zeros(n, dtype=torch.uint8), tag) for tag, n in enumerate(sizes_of)]
    return found


def is_next(sender: int, chunk: Chunk, into: dict[int, list[Chunk]]) -> bool:
    """Whether its receiver is at this chunk too."""
    if not into[chunk.transfer.rank]:
        return False
    awaited = into[chunk.transfer.rank][0]
    same_message = (awaited.transfer.rank, awaited.transfer.tag) == (sender, chunk.transfer.tag)
    return same_message and (awaited.number, awaited.num_bytes) == (chunk.number, chunk.num_bytes)
