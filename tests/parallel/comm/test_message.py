"""Split tensors, the room for them, and the labels of tables."""

from __future__ import annotations

import pytest
import torch
from dougong.parallel.comm.message import PartRoom, SplitTensor, labels_of, write_label


@pytest.mark.parametrize(
    ("shape", "sizes", "dtype", "fits"),
    [
        ((5, 3), (2, 3), torch.bfloat16, True),
        ((5, 3), (3, 2), torch.bfloat16, False),
        ((4, 3), (2, 3), torch.bfloat16, False),
        ((5, 2), (2, 3), torch.bfloat16, False),
        ((5, 3), (2, 3), torch.float32, False),
    ],
)
def test_room_is_for_one_shape_dtype_and_split(
    shape: tuple[int, ...], sizes: tuple[int, ...], dtype: torch.dtype, fits: bool
) -> None:
    room = PartRoom((2, 3), (3,), torch.bfloat16)
    assert room.fits(SplitTensor(torch.zeros(shape, dtype=dtype), sizes)) is fits
    assert room.fits(room.allocate(torch.device("meta"))) and str(room) == "(5, 3) torch.bfloat16"


def test_bytes_of_a_row() -> None:
    assert SplitTensor(torch.zeros(0, 3, dtype=torch.bfloat16), ()).row_bytes == 6
    assert SplitTensor(torch.zeros(4, dtype=torch.int32), (4,)).row_bytes == 4


def test_each_share_of_a_table_has_a_label() -> None:
    table = torch.zeros(11, dtype=torch.int64)
    write_label(table, (5, 6), [1, 2, 3, 4])
    assert table.tolist() == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0]
    assert labels_of(table, (5, 6)).tolist() == [[1, 2, 3, 4]] * 2
