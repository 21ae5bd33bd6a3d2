"""Rounding up to a multiple."""

from __future__ import annotations

import pytest
from dougong.ops.sizes import ALIGNMENT_BYTES, rounded_up


@pytest.mark.parametrize(("size", "rounded"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_the_smallest_multiple_that_is_not_less(size: int, rounded: int) -> None:
    assert rounded_up(size, ALIGNMENT_BYTES) == rounded
