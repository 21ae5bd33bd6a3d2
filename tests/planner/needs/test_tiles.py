"""How many rows one product takes."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.planner.needs.tiles import product_rows
from tests.jobs import make_job


@pytest.mark.parametrize(
    ("tokens", "lanes", "changes", "expected"),
    [
        (512, 4, {}, "block"),  # 512 * 2 / 8 rows in a block: enough
        (508, 4, {}, 128),
        (64, 4, {}, 32),  # 16 in a block, 64 of an expert: tiles of half of them
        (64, 8, {}, 64),
        (64, 1, {}, "block"),  # nothing to put together
        (16, 2, {}, "block"),  # too few even so
        (64, 4, {"expert_tile": "none"}, "block"),
        (512, 4, {"expert_tile": 16}, 16),
        (64, 4, {"determinism": "run"}, "expert"),
        (512, 1, {"determinism": "off"}, "expert"),
    ],
)
def test_small_blocks_are_tiled(tokens: int, lanes: int, changes: dict[str, Any], expected: int | str) -> None:
    batch = {"lanes": lanes, "microbatch_size": tokens // 4}
    job = make_job(batch=batch, data={"text": "stdlib", "sequence_length": 4}, **changes)
    assert product_rows(job, 8, 2) == expected
