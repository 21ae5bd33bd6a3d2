"""The images of sequences, as a model's tower takes them. Imports no torch."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Patches:
    """Of an image. `pixels`: float32 [patches, values]; `grid`: how many patches it has in time,
    height and width."""

    pixels: npt.NDArray[np.float32]
    grid: tuple[int, int, int]

    def digest(self) -> str:
        total = hashlib.blake2b(repr(self.grid).encode(), digest_size=16)
        total.update(np.ascontiguousarray(self.pixels).astype("<f4", copy=False).tobytes())
        return total.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """`rows`: of each sequence its images, in the order of their tokens, one at least in all.
    `token`: the id that stands for a part of one; `kinds`: int64 [sequences, tokens], 1 where it
    stands, else 0."""

    rows: tuple[tuple[Patches, ...], ...]
    token: int
    kinds: npt.NDArray[np.int64]

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """Of all images, one after the other: float32 [patches, values]."""
        return np.concatenate([one.pixels for one in itertools.chain(*self.rows)])

    @property
    def grids(self) -> npt.NDArray[np.int64]:
        """Of all images: int64 [images, 3], patches in time, height and width."""
        return np.array([one.grid for one in itertools.chain(*self.rows)], dtype=np.int64)
