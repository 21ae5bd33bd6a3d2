"""Copies to the host and back, where host and device are one; what a device adds is in device_checks.py (training)."""

from __future__ import annotations

import pytest
import torch
from dougong.accelerators.staging import (
    SLAB_BYTES,
    SLOT_BYTES,
    HostLink,
    SideStream,
    Staging,
    StagingRoom,
    host_memory,
    on_device,
)
from torch import Tensor

CPU = torch.device("cpu")


def test_memory_of_a_processor_is_plain() -> None:
    memory = host_memory(7, CPU)
    assert (memory.dtype, memory.numel(), memory.is_pinned()) == (torch.uint8, 7, False)
    assert StagingRoom(CPU).take(SLAB_BYTES + 1).numel() == SLAB_BYTES + 1


def test_what_is_there_is_not_copied() -> None:
    values = torch.arange(3)
    assert on_device(values, CPU) is values


@pytest.mark.parametrize("value", [torch.arange(5.0), torch.tensor(3), torch.ones(2, 3).t(), torch.empty(0)])
def test_a_set_is_copied_and_its_memory_taken_again(value: Tensor) -> None:
    staging = Staging()
    first = staging.copy("key", value)
    staging.wait()
    assert torch.equal(first, value) and first.shape == value.shape and first.is_contiguous()
    again = staging.copy("key", value + 1)
    staging.wait()
    assert again.data_ptr() == first.data_ptr() and torch.equal(first, value + 1)
    other = staging.copy("key", torch.zeros(9))
    assert other.shape == (9,), "another shape has memory of its own"


def test_tensors_on_the_host_are_given_where_they_lie_in_pieces() -> None:
    long, short = torch.arange(SLOT_BYTES // 4 + 3, dtype=torch.float32), torch.tensor(True)
    link = HostLink(CPU)
    found = list(link.pieces([long, short], link.stream.mark()))
    assert [(piece.number, piece.begin, len(piece.data)) for piece in found] == [
        (0, 0, SLOT_BYTES),
        (0, SLOT_BYTES, 12),
        (1, 0, 1),
    ]
    assert found[1].data.data_ptr() == long.data_ptr() + SLOT_BYTES


def test_there_is_no_stream_to_wait_for_on_a_processor() -> None:
    stream = SideStream(CPU)
    stream.after(stream.mark())
    with stream.entered():
        assert stream.event() is None
    stream.wait()
    stream.have_device_wait()
