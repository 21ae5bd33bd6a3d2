"""The tables that grouped kernels are run by: which rows are whose, cut into tiles; and the tiles'
sizes.

A wave's tables are built on the host, where its blocks are known, and go to the device in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dougong.ops.experts.base import Block

TILE_FIELDS = 5
GROUP = 16
"""Row tiles of one expert whose programs run next to one another: their rows and a strip of weights
fit into the cache of a data-centre GPU (16 x 128 rows of 7168 bfloat16 values are 28 MiB). It
changes the order of programs, no bit."""

Table = NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    """How one kernel cuts its work: `columns` of a tile, `depth` of one step of the sum; warps and
    pipeline stages."""

    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """The sizes of all four kernels. They are part of the arithmetic, so they never follow from the
    number of rows.

    `height`: rows of a tile. A weight gradient's tile is square, and its `depth` counts rows.
    """

    height: int
    gate_up: Tile
    linear: Tile
    inner_backward: Tile
    weight_gradient: Tile


HALF = {
    # 227 KiB of shared memory a block: Hopper and the large Blackwell. A stage of the first two
    # takes 48 KiB.
    "wide": Tiles(
        128, Tile(128, 64, 8, 3), Tile(256, 64, 8, 3), Tile(128, 64, 8, 4), Tile(128, 64, 8, 4)
    ),
    # 163 KiB: A100.
    "middle": Tiles(
        128, Tile(64, 64, 8, 3), Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(128, 64, 8, 3)
    ),
    # 99 KiB: everything else.
    "narrow": Tiles(
        128, Tile(64, 32, 8, 3), Tile(128, 32, 8, 3), Tile(128, 32, 8, 3), Tile(128, 32, 8, 3)
    ),
}
"""float16 and bfloat16, on tensor cores. The first kernel has two tiles, gate and up: together
Hopper's 128 x 256."""
SINGLE = Tiles(64, Tile(32, 16, 4, 2), Tile(64, 16, 4, 2), Tile(64, 16, 4, 2), Tile(64, 16, 4, 2))
"""float32 without TF32 runs on plain multiply-add units: for tests and small models."""


def choose_tiles(dtype: torch.dtype, arch: int) -> Tiles:
    """The tiles of a dtype on NVIDIA GPUs of compute capability `arch` (such as 90); any other
    number is "narrow"."""
    if dtype == torch.float32:
        return SINGLE
    return HALF["wide" if arch in {90, 100, 103} else "middle" if arch == 80 else "narrow"]


@dataclass(frozen=True)
class Wave:
    """Tables (int32, on the device) of one micro-batch's blocks. An expert's *slot* is its place in
    `order`.

    `rows` [R]: the wave's rows, expert by expert, lane by lane. `tiles` [T, 5]: slot, first place
    in `rows`, rows, first tile of its group, tiles of its group. `spans` [B, 2]: first row and rows
    of every block, expert by expert, lane by lane. `experts` [X, 3]: slot, first span, spans; most
    rows first, so that no long one is left for the end of the launch.
    """

    order: tuple[int, ...]
    height: int
    rows: Tensor
    tiles: Tensor
    spans: Tensor
    experts: Tensor

    @property
    def num_tiles(self) -> int:
        return len(self.tiles)

    @property
    def num_experts(self) -> int:
        return len(self.experts)


def arrange(blocks: Sequence[Block], height: int, device: torch.device) -> Wave:
    """Tables of `blocks` for tiles of `height` rows. A tile holds rows of one expert, of as many
    lanes as fit."""
    inside = sorted(blocks, key=lambda b: (b.expert, b.lane))
    owner_B = np.array([b.expert for b in inside], dtype=np.int64)
    spans_B2 = np.array([(b.start, b.count) for b in inside], dtype=np.int64).reshape(-1, 2)
    order_X, first_X, blocks_X = np.unique(owner_B, return_index=True, return_counts=True)
    rows_X = np.add.reduceat(spans_B2[:, 1], first_X) if inside else spans_B2[:, 1]
    slots_X = np.arange(len(order_X))
    experts_X3 = np.stack([slots_X, first_X, blocks_X], axis=1)[np.argsort(-rows_X, kind="stable")]
    parts = _rows(spans_B2), _tiles(rows_X, height), spans_B2, experts_X3
    flat = torch.from_numpy(np.concatenate([p.ravel() for p in parts]).astype(np.int32)).to(
        device, non_blocking=True
    )
    rows, tiles, spans, experts = flat.split([p.size for p in parts])
    order = tuple(order_X.tolist())
    return Wave(
        order, height, rows, tiles.view(-1, TILE_FIELDS), spans.view(-1, 2), experts.view(-1, 3)
    )


def _rows(spans_B2: Table) -> Table:
    """The rows of every span, one span after another."""
    start_B, count_B = spans_B2.T
    before_B = np.cumsum(count_B) - count_B
    return np.repeat(start_B - before_B, count_B) + np.arange(count_B.sum())


def _tiles(rows_X: Table, height: int) -> Table:
    """The table of tiles [T, 5] for experts of so many rows each, one after another."""
    tiles_X = -(-rows_X // height)
    slot_T = np.repeat(np.arange(len(rows_X)), tiles_X)
    first_T = (np.cumsum(tiles_X) - tiles_X)[slot_T]
    number_T = np.arange(len(slot_T)) - first_T
    inside_T = number_T * height
    place_T = (np.cumsum(rows_X) - rows_X)[slot_T] + inside_T
    group_T = number_T // GROUP * GROUP
    columns = (
        slot_T, place_T, np.minimum(height, rows_X[slot_T] - inside_T),
        first_T + group_T, np.minimum(GROUP, tiles_X[slot_T] - group_T),
    )  # fmt: skip
    return np.stack(columns, axis=1)
