"""What every worker tells every other one: values by rank, as bytes of their own size.

All functions are collective: every worker of the world calls them in the same order, and each gets
the same list.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from dougong.parallel.comm.world import World

_FLOAT_BYTES = struct.calcsize("<d")


def gather_json(world: World, value: Any) -> list[Any]:
    """Everybody's value, by rank: numbers, text, bools, None, lists and dictionaries of them.

    Whole numbers and floats arrive to the bit, those that are not finite as well; a tuple arrives
    as a list.
    """
    payloads = world.gather_bytes(json.dumps(value).encode())
    return [json.loads(payload) for payload in payloads]


def gather_floats(world: World, values: Sequence[float], sizes: Sequence[int]) -> list[list[float]]:
    """Everybody's float64 values, by rank, to the bit; `sizes[r]` says how many rank r has."""
    assert len(values) == sizes[world.rank], (
        f"rank {world.rank} gathers {len(values)} values, {sizes[world.rank]} due"
    )
    payload = struct.pack(f"<{len(values)}d", *values)
    payloads = world.gather_bytes(payload, [size * _FLOAT_BYTES for size in sizes])
    return [
        list(struct.unpack(f"<{size}d", payload))
        for size, payload in zip(sizes, payloads, strict=True)
    ]
