"""Values of all workers: they arrive to the bit, by rank."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dougong.parallel.comm.gather import gather_floats, gather_json
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.parallel.workers import plan_of
from tests.processes import run_workers

VALUES = [0.1, -0.0, math.inf, 5e-324, 1 / 3]


def gather(world: World, plan: Plan) -> tuple[list[Any], list[list[float]]]:
    value = {"rank": world.rank, "large": 2**64 - 1 - world.rank, "losses": VALUES, "stop": world.rank == 1}
    return gather_json(world, value), gather_floats(world, VALUES[: 2 + world.rank], [2, 3, 4])


def test_values_of_three_processes() -> None:
    for values, floats in run_workers(gather, plan_of("BBB")):
        assert [value["rank"] for value in values] == [0, 1, 2]
        assert [value["large"] for value in values] == [2**64 - 1, 2**64 - 2, 2**64 - 3]
        assert [value["stop"] for value in values] == [False, True, False]
        assert [value["losses"] for value in values] == [VALUES] * 3
        assert [[number.hex() for number in mine] for mine in floats] == [
            [number.hex() for number in VALUES[:count]] for count in (2, 3, 4)
        ]


def test_a_value_that_is_no_number_stays_none() -> None:
    (value,) = gather_json(World.alone(), math.nan)
    ((number,),) = gather_floats(World.alone(), [math.nan], [1])
    assert math.isnan(value) and math.isnan(number)


def test_values_of_another_number_than_announced_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="rank 0 gathers 2 values, 3 due"):
        gather_floats(World.alone(), [1.0, 2.0], [3])
