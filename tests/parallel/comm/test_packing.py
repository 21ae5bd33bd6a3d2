"""Several tensors travel as one buffer, each at a multiple of 512 bytes."""

from __future__ import annotations

import torch
from dougong.parallel.comm.packing import ALIGNMENT, as_bytes, pack, places, room_for
from hypothesis import given
from hypothesis import strategies as st

DTYPES = (torch.float32, torch.bfloat16, torch.int32, torch.uint8)
SHAPES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from(DTYPES)), min_size=1, max_size=5)


def tensors_of(shapes: list[tuple[int, int, torch.dtype]]) -> list[torch.Tensor]:
    return [torch.randint(0, 100, (rows, columns)).to(dtype) for rows, columns, dtype in shapes]


@given(SHAPES)
def test_what_is_packed_is_found_again(shapes: list[tuple[int, int, torch.dtype]]) -> None:
    sent = tensors_of(shapes)
    arriving = [torch.empty_like(tensor) for tensor in sent]
    room = room_for(arriving)
    room.copy_(pack(sent))
    if len(sent) > 1:  # one alone has arrived in its own memory
        for place, tensor in zip(places(room, arriving), arriving, strict=True):
            as_bytes(tensor).copy_(place)
    for tensor, found in zip(sent, arriving, strict=True):
        assert torch.equal(tensor, found)


def test_each_begins_where_a_kernel_expects_it() -> None:
    sent = tensors_of([(3, 5, torch.float32), (1, 1, torch.bfloat16), (7, 7, torch.int32)])
    buffer = pack(sent)
    begins = [place.data_ptr() - buffer.data_ptr() for place in places(buffer, sent)]
    assert begins == [0, ALIGNMENT, 2 * ALIGNMENT]


def test_one_alone_is_not_copied() -> None:
    (tensor,) = tensors_of([(3, 5, torch.float32)])
    assert pack([tensor]).data_ptr() == room_for([tensor]).data_ptr() == tensor.data_ptr()
