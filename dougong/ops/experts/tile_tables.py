"""The tables that grouped kernels are run by: which rows are whose, cut into tiles of what sizes.

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
"""Row tiles of one expert whose programs run next to one another.

Their rows and a strip of weights fit into the cache of a data-centre GPU (16 x 128 rows of 7168
bfloat16 values are 28 MiB). It changes the order of programs, no bit.
"""

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


WIDE = Tiles(
    height=128,
    # The first kernel has two tiles, gate and up: together Hopper's 128 x 256. A stage of the first
    # two kernels takes 48 KiB.
    gate_up=Tile(128, 64, 8, 3),
    linear=Tile(256, 64, 8, 3),
    inner_backward=Tile(128, 64, 8, 4),
    weight_gradient=Tile(128, 64, 8, 4),
)
"""227 KiB of shared memory a block: Hopper and the large Blackwell."""
MIDDLE = Tiles(
    height=128,
    gate_up=Tile(64, 64, 8, 3),
    linear=Tile(128, 64, 8, 3),
    inner_backward=Tile(128, 64, 8, 3),
    weight_gradient=Tile(128, 64, 8, 3),
)
"""163 KiB: A100."""
NARROW = Tiles(
    height=128,
    gate_up=Tile(64, 32, 8, 3),
    linear=Tile(128, 32, 8, 3),
    inner_backward=Tile(128, 32, 8, 3),
    weight_gradient=Tile(128, 32, 8, 3),
)
"""99 KiB: everything else."""
SINGLE = Tiles(
    height=64,
    gate_up=Tile(32, 16, 4, 2),
    linear=Tile(64, 16, 4, 2),
    inner_backward=Tile(64, 16, 4, 2),
    weight_gradient=Tile(64, 16, 4, 2),
)
"""float32 without TF32 runs on plain multiply-add units: for tests and small models."""


def choose_tiles(dtype: torch.dtype, arch: int) -> Tiles:
    """The tiles of a dtype on NVIDIA GPUs of compute capability `arch` (such as 90).

    float16 and bfloat16 run on tensor cores, in tiles as large as the shared memory allows; an
    unknown `arch` gets the smallest of them.
    """
    if dtype == torch.float32:
        return SINGLE
    if arch in (90, 100, 103):
        return WIDE
    return MIDDLE if arch == 80 else NARROW


def in_words(tiles: Tiles) -> str:
    """All sizes, `height:columns.depth.warps.stages`, the four kernels in their order."""
    kernels = (tiles.gate_up, tiles.linear, tiles.inner_backward, tiles.weight_gradient)
    sizes = [f"{tile.columns}.{tile.depth}.{tile.warps}.{tile.stages}" for tile in kernels]
    return f"{tiles.height}:{'/'.join(sizes)}"


@dataclass(frozen=True)
class Wave:
    """Tables (int32, on the device) of one micro-batch's blocks.

    An expert's *slot* is its place in `order`.

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
    expert_B, spans_B2 = _by_expert(blocks)
    order_X, first_X, blocks_X = np.unique(expert_B, return_index=True, return_counts=True)
    rows_X = _sums_from(first_X, spans_B2[:, 1])
    experts_X3 = np.stack([np.arange(len(order_X)), first_X, blocks_X], axis=1)
    experts_X3 = experts_X3[np.argsort(-rows_X, kind="stable")]
    rows, tiles, spans_on_device, experts = _to_device(
        (_rows(spans_B2), _tiles(rows_X, height), spans_B2, experts_X3), device
    )
    return Wave(
        order=tuple(order_X.tolist()),
        height=height,
        rows=rows,
        tiles=tiles.view(-1, TILE_FIELDS),
        spans=spans_on_device.view(-1, 2),
        experts=experts.view(-1, 3),
    )


def _by_expert(blocks: Sequence[Block]) -> tuple[Table, Table]:
    """(expert [B], first row and rows [B, 2]) of every block, expert by expert, lane by lane."""
    blocks = sorted(blocks, key=lambda block: (block.expert, block.lane))
    experts = [block.expert for block in blocks]
    spans = [(block.start, block.count) for block in blocks]
    return np.array(experts, dtype=np.int64), np.array(spans, dtype=np.int64).reshape(-1, 2)


def _to_device(tables: Sequence[Table], device: torch.device) -> Sequence[Tensor]:
    """Each table as one row of int32, all by one copy."""
    together = np.concatenate([table.ravel() for table in tables]).astype(np.int32)
    copied = torch.from_numpy(together).to(device, non_blocking=True)
    parts: Sequence[Tensor] = copied.split([table.size for table in tables])
    return parts


def _sums_from(first_X: Table, count_B: Table) -> Table:
    """The sum of `count_B` from each of `first_X` up to the next."""
    # reduceat does not take an empty list of places.
    return np.add.reduceat(count_B, first_X) if len(first_X) else count_B


def _rows(spans_B2: Table) -> Table:
    """The rows of every span, one span after another."""
    start_B, count_B = spans_B2.T
    before_B = np.cumsum(count_B) - count_B
    # Row number i of the result lies in span b at place i - before_b: it is row start_b + that.
    return np.repeat(start_B - before_B, count_B) + np.arange(count_B.sum())


def _tiles(rows_X: Table, height: int) -> Table:
    """The table of tiles [T, 5] for experts of so many rows each, one after another."""
    tiles_X = -(-rows_X // height)  # rounded up
    slot_T = np.repeat(np.arange(len(rows_X)), tiles_X)
    first_tile_T = _before(tiles_X)[slot_T]  # of the same expert
    number_T = np.arange(len(slot_T)) - first_tile_T  # within the expert
    place_T = _before(rows_X)[slot_T] + number_T * height
    num_rows_T = np.minimum(height, rows_X[slot_T] - number_T * height)
    group_T = number_T // GROUP * GROUP
    group_size_T = np.minimum(GROUP, tiles_X[slot_T] - group_T)
    columns = (slot_T, place_T, num_rows_T, first_tile_T + group_T, group_size_T)
    return np.stack(columns, axis=1)


def _before(counts: Table) -> Table:
    """The sum of all counts before each."""
    return np.cumsum(counts) - counts
