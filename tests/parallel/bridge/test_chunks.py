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


def test_many_workers_with_room_for_one_chunk_never_wait_in_a_circle() -> None:
    """Every worker sends every other one messages of several sizes. Each has room for one chunk in either direction,
    and takes its chunks in its own order: one moves when both ends are at it. All come through."""
    size = 5
    ranks = range(size)
    lengths = {(a, b): [(17 * a + 5 * b) % 70, 40, (3 * a + b) % 9] for a, b in itertools.permutations(ranks, 2)}
    out = {rank: leaving(RULE, transfers(lengths, rank, True), rank, size) for rank in ranks}
    into = {rank: arriving(RULE, transfers(lengths, rank, False), rank, size) for rank in ranks}
    left = sum(map(len, out.values()))
    assert left == sum(map(len, into.values()))
    while left:
        moved = [rank for rank in ranks if out[rank] and is_next(rank, out[rank][0], into)]
        assert moved, "all wait"
        for rank in moved:
            into[out[rank][0].transfer.rank].pop(0)
            out[rank].pop(0)
        left -= len(moved)


def transfers(lengths: dict[tuple[int, int], list[int]], rank: int, sends: bool) -> list[Transfer]:
    found = []
    for (sender, receiver), sizes_of in lengths.items():
        if rank == (sender if sends else receiver):
            peer = receiver if sends else sender
            found += [Transfer(peer, torch.zeros(n, dtype=torch.uint8), tag) for tag, n in enumerate(sizes_of)]
    return found


def is_next(sender: int, chunk: Chunk, into: dict[int, list[Chunk]]) -> bool:
    """Whether its receiver is at this chunk too."""
    awaited = into[chunk.transfer.rank][0]
    same_message = (awaited.transfer.rank, awaited.transfer.tag) == (sender, chunk.transfer.tag)
    return same_message and (awaited.number, awaited.num_bytes) == (chunk.number, chunk.num_bytes)
