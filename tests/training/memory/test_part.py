"""A share of the state in host memory: what goes in comes out, and a bit that flips there is found."""

from __future__ import annotations

import pytest
import torch
from dougong.checkpoint.snapshot import StateTensor
from dougong.training.memory.holdings import Moment
from dougong.training.memory.part import Buffers, StatePart, layout_of, num_bytes_of, why_damaged
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

MOMENT = Moment(7, 2)


def part_of(state: list[StateTensor]) -> StatePart:
    layout = layout_of(state)
    part = StatePart(MOMENT, "ab" * 16, layout, Buffers().take("own", num_bytes_of(layout)))
    assert not part.is_whole and ("model", "t0") not in part
    part.fill(state)
    return part


def tensors(shapes: list[tuple[int, ...]]) -> list[StateTensor]:
    made = [torch.rand(shape) for shape in shapes]
    return [StateTensor("model", f"t{number}", tensor) for number, tensor in enumerate(made)]


@given(st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6))
def test_what_goes_in_comes_out(shapes: list[tuple[int, ...]]) -> None:
    state = tensors(shapes)
    kept = [item.tensor.clone() for item in state]
    part = part_of(state)
    for item in state:
        item.tensor.fill_(0)
    assert part.is_whole
    held = part.holding().tensors
    assert [tensor.key for tensor in held] == [(item.group, item.name) for item in state]
    for tensor, before in zip(held, kept, strict=True):
        assert torch.equal(part.tensor(tensor.key), before) and not why_damaged(part.tensor(tensor.key), tensor)


def test_other_items_than_float32_keep_their_kind() -> None:
    state = [StateTensor("model", "t0", torch.tensor([True])), StateTensor("model", "count", torch.tensor(5))]
    part = part_of(state)
    assert part.tensor(("model", "count")).dtype == torch.int64 and int(part.tensor(("model", "count"))) == 5
    assert part.tensor(("model", "t0")).tolist() == [True]


def flipped(tensor: Tensor) -> None:
    tensor.view(torch.uint8)[1] ^= 4


def test_a_bit_that_flips_in_memory_is_found() -> None:
    part = part_of(tensors([(3,), (2, 2)]))
    first, second = part.holding().tensors
    flipped(part.tensor(first.key))
    assert "model t0: digest" in why_damaged(part.tensor(first.key), first)
    assert not why_damaged(part.tensor(second.key), second)


def test_memory_is_used_again_unless_its_size_is_another_or_somebody_may_write_there() -> None:
    buffers = Buffers()
    first = buffers.take("own", 64)
    assert buffers.take("own", 64).data_ptr() == first.data_ptr()
    assert buffers.take("replica of 1", 64).data_ptr() != first.data_ptr()
    assert buffers.take("own", 72).numel() == 72
    second = buffers.take("own", 72)
    buffers.forget("own")
    assert buffers.take("own", 72).data_ptr() != second.data_ptr()


def test_memory_that_there_is_not_names_the_keys() -> None:
    with pytest.raises(MemoryError, match=r"set fault\.snapshots\.replicas: 0, or switch"):
        Buffers().take("own", 1 << 60)
