"""Images of sequences, in the order of their tokens."""

from __future__ import annotations

import numpy as np
from dougong.data.samples.image_batch import ImageBatch, Patches


def patches(first: int, *grid: int) -> Patches:
    count = grid[1] * grid[2]
    return Patches(np.arange(first, first + 2 * count, dtype=np.float32).reshape(count, 2), (1, *grid[1:]))


def test_all_images_lie_one_after_the_other() -> None:
    one, other, third = patches(0, 1, 1, 2), patches(50, 1, 2, 2), patches(90, 1, 1, 1)
    batch = ImageBatch(((one,), (), (other, third)), 9, np.zeros((3, 4), dtype=np.int64))
    assert batch.pixels[:, 0].tolist() == [0, 2, 50, 52, 54, 56, 90]
    assert batch.grids.tolist() == [[1, 1, 2], [1, 2, 2], [1, 1, 1]] and batch.grids.dtype == np.int64


def test_a_digest_is_of_pixels_and_of_their_grid() -> None:
    one = patches(0, 1, 2, 4)
    assert one.digest() == patches(0, 1, 2, 4).digest()
    assert len({one.digest(), patches(1, 1, 2, 4).digest(), Patches(one.pixels, (1, 4, 2)).digest()}) == 3
