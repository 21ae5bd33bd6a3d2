"""How many rows one product of an expert takes: a pure function of job and model. Imports no
torch."""

from __future__ import annotations

from typing import Literal

from dougong.job.schema import Job

ENOUGH_ROWS = 128
"""From so many rows on, one product per block costs as much as one for all lanes (measured:
`benchmarks/README.md`)."""
HEIGHTS = (128, 64, 32, 16)
"""Of tiles, in rows, tallest first."""


def product_rows(
    job: Job, num_experts: int, experts_per_token: int
) -> int | Literal["block", "expert"]:
    """What one product of an expert takes: a block (expert, lane, micro-batch), or tiles of so many
    rows of all lanes.

    `expert_tile: auto` tiles where a block is expected to have less than `ENOUGH_ROWS` rows and
    there are lanes to put together; a tile is at most half of an expert's rows, so that filling up
    the last one costs little. Where nothing is promised to other plans, a product takes all of an
    expert's rows.
    """
    if not job.is_layout_free:
        return "expert"
    if job.expert_tile != "auto":
        return "block" if job.expert_tile == "none" else job.expert_tile
    tokens = job.batch.microbatch_size * job.data.sequence_length
    rows_per_block = tokens * experts_per_token / num_experts
    if rows_per_block >= ENOUGH_ROWS or job.batch.lanes == 1:
        return "block"
    return _tile_height(rows_per_block * job.batch.lanes)


def _tile_height(rows_per_expert: float) -> int | Literal["block"]:
    """The tallest tile that is at most half of an expert's rows; a block where none is."""
    for height in HEIGHTS:
        if 2 * height <= rows_per_expert:
            return height
    return "block"
