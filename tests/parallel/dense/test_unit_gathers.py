"""Units are gathered in one order on all workers, whoever has how many flights, and go when all flights are done."""

from __future__ import annotations

from typing import Any

import torch
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.parallel.dense.unit_gathers import UnitGathers
from dougong.parallel.dense.unit_tensors import UnitTensors
from dougong.parallel.plan import Plan
from tests.parallel.dense.united import SHAPES, UNITS, master, tensors_of
from tests.parallel.workers import plan_of, with_lanes
from tests.processes import run_workers

LAST = len(UNITS.units) - 1


def there(tensors: UnitTensors) -> list[int]:
    """Groups that have memory."""
    found = []
    for group, numbers in enumerate(tensors.groups):
        if any(tensors.buffers[n].untyped_storage().nbytes() for n in numbers):
            found.append(group)
    return found


def test_two_units_are_there_at_a_time_and_those_at_the_turn_stay() -> None:
    plan = plan_of("B", shapes=SHAPES)
    tensors, _ = tensors_of(plan, 0)
    gathers = UnitGathers(World.alone(), plan, tensors)
    gathers.begin(2, is_training=True)
    for unit in range(LAST + 1):
        for _ in range(2):
            gathers.enter(unit, False)
            expected = [0, *range(min(unit, UNITS.kept_from) + 1, unit + 2), unit + 2]
            if unit < LAST:
                assert there(tensors) == sorted(set(expected)), unit
        for _ in range(2):
            gathers.leave(unit, False)
    assert there(tensors) == [0, 2, 3, 4], "the last segment's, and the one that the backward needs next"
    for unit in reversed(range(LAST + 1)):
        for flight in range(2):
            gathers.enter(unit, True)
            assert unit + 1 in there(tensors)
            gathers.leave(unit, True)
            assert (unit + 1 in there(tensors)) == (flight == 0)
    gathers.end()
    assert there(tensors) == []


def test_what_no_flight_enters_holds_nothing_up_and_goes_too() -> None:
    plan = plan_of("B", shapes=SHAPES)
    tensors, _ = tensors_of(plan, 0)
    gathers = UnitGathers(World.alone(), plan, tensors)
    gathers.begin(1, is_training=True)
    gathers.enter(LAST, False)
    gathers.leave(LAST, False)
    for unit in (1, 2, LAST):  # a flight passes by what its walk does not touch
        gathers.leave(unit, True)
    gathers.enter(0, True)
    gathers.leave(0, True)
    gathers.end()
    assert there(tensors) == []


def passes(world: World, plan: Plan, num_flights: list[int]) -> dict[str, Any]:
    """Two steps of training, an evaluation that not all have a part in, and what every flight saw."""
    tensors, masters = tensors_of(plan, world.rank)
    if not plan.workers[world.rank].lanes:
        return {}
    world.tally.is_on = True
    gathers, seen = UnitGathers(world, plan, tensors), dict[str, list[float]]()

    def fly(unit: int, count: int, is_backward: bool) -> None:
        for _ in range(count):
            gathers.enter(unit, is_backward)
            for name in UNITS.units[unit].tensors:
                seen.setdefault(name, []).append(float(tensors.parameters[name].float().sum()))
        for _ in range(count):
            gathers.leave(unit, is_backward)

    flights, sums, forth = num_flights[world.rank], [], [(unit, False) for unit in range(LAST + 1)]
    back = [(unit, True) for unit in reversed(range(LAST + 1))]
    for step, is_training in enumerate((True, False, True)):
        count = flights if is_training else max(0, flights - 1)
        gathers.begin(count, is_training)
        for unit, is_backward in [*forth, *back] if is_training else forth:
            fly(unit, count, is_backward)
        gathers.end()
        assert there(tensors) == []
        sums.append(gathers.sums() if is_training else {})
        for name in masters:
            masters[name].copy_(master(name, step + 1))
    return {"seen": seen, "sums": sums, "bytes": world.sent.total(TrafficKind.WEIGHTS)}


def test_workers_with_few_and_many_flights_see_the_owners_values() -> None:
    plan = with_lanes(plan_of("BBBE", 5, shapes=SHAPES), [(0,), (1, 2, 3), (4,), ()])
    found = [one for one in run_workers(passes, plan, [1, 3, 1, 0]) if one]
    assert len(found) == 3
    for one, flights in zip(found, (1, 3, 1), strict=True):
        for name, values in one["seen"].items():
            steps = [0] * 2 * flights + [1] * max(0, flights - 1) + [2] * 2 * flights
            dtype = torch.float32 if name == "b" else torch.bfloat16
            assert values == [float(master(name, step).to(dtype).float().sum()) for step in steps], name
    assert found[0]["sums"] == found[1]["sums"] == found[2]["sums"]
    assert found[0]["sums"][0].keys() == SHAPES.keys() and found[0]["sums"][0] != found[0]["sums"][2]
    assert all(one["bytes"] for one in found)


def test_what_is_gathered_aside_counts_for_nothing() -> None:
    plan = plan_of("B", shapes=SHAPES)
    tensors, _ = tensors_of(plan, 0)
    world = World.alone()
    world.tally.is_on = True
    gathers = UnitGathers(world, plan, tensors)
    gathers.begin(0, is_training=True)
    gathers.end()
    before = gathers.sums()
    with gathers.aside():
        gathers.begin(0, is_training=False)
        gathers.end()
    assert gathers.sums() == before and before
