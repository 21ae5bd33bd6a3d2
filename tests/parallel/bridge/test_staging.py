"""Memory is given out as a ring, and never twice."""

from __future__ import annotations

import random
from collections import deque

import pytest
import torch
from dougong.parallel.bridge.staging import ChunkRing, TorchDevice, taken_bytes

ROOM = 8 * 512


def test_what_was_taken_first_is_given_back_first() -> None:
    staging = ChunkRing(torch.zeros(ROOM, dtype=torch.uint8))
    first, second = staging.take(5 * 512), staging.take(2 * 512 + 1)
    assert first is not None and second is not None
    assert staging.take(1) is None, "all is taken"
    staging.give_back()
    assert staging.take(5 * 512 + 1) is None
    again = staging.take(5 * 512)
    assert again is not None and again.data_ptr() == first.data_ptr()
    assert staging.take(1) is None


@pytest.mark.parametrize(("num_bytes", "taken"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_tensors_begin_where_a_devices_own_would(num_bytes: int, taken: int) -> None:
    assert taken_bytes(num_bytes) == taken


def test_no_byte_is_taken_twice() -> None:
    """Any order of sizes: each piece keeps what was written to it until it is given back."""
    chance = random.Random(3)
    staging = ChunkRing(torch.zeros(ROOM, dtype=torch.uint8))
    held: deque[tuple[torch.Tensor, int]] = deque()
    for number in range(3000):
        piece = staging.take(chance.randint(1, ROOM))
        if piece is None:
            oldest, value = held.popleft()  # more than there is room for would find `held` empty
            assert oldest.eq(value).all()
            staging.give_back()
            continue
        piece.fill_(number % 251)
        held.append((piece, number % 251))


def test_memory_is_plain_where_no_device_pins_any() -> None:
    device = TorchDevice(torch.device("cpu"))
    assert not device.holds(torch.zeros(1)) and device.holds(torch.zeros(1, device="meta"))
    assert not device.is_pinned
