"""A head says all of its message: whose it is, and the dtype and shape of every part."""

from __future__ import annotations

import pytest
import torch
from dougong.parallel.comm.message import DTYPES, HEAD_NUMBERS, TensorMessage, label_of, make_head, make_room

LABEL = [2, 7, 1, 3, 0]
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [[], [()], [(0, 5)], [(3,), (4, 2)], [(1, 1)] * 4])
def test_a_head_describes_its_message(dtype: torch.dtype, shapes: list[tuple[int, ...]]) -> None:
    message = TensorMessage([torch.zeros(shape, dtype=dtype) for shape in shapes])
    head = make_head(LABEL, message)
    assert head.shape == (HEAD_NUMBERS,) and head.dtype == torch.int64
    assert label_of(head) == LABEL
    room = make_room(head, CPU)
    assert [(part.shape, part.dtype) for part in room.parts] == [(part.shape, part.dtype) for part in message.parts]
    assert room.num_bytes == message.num_bytes


def test_whole_numbers_stay_on_the_host() -> None:
    message = TensorMessage([torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)])
    room = make_room(make_head(LABEL, message), torch.device("meta"))
    assert [part.device.type for part in room.parts] == ["cpu", "meta"]


def test_more_parts_than_a_head_has_room_for_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="5 parts in a message"):
        make_head(LABEL, TensorMessage([torch.zeros(1)] * 5))
