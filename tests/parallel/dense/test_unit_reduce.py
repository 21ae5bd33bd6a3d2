"""The same sums as where all gradients stay, with memory for few of them at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dougong.errors import PeerError
from dougong.parallel.comm.world import World
from dougong.parallel.dense.ordered_reduce import OrderedReducer
from dougong.parallel.dense.unit_reduce import UnitReducer
from dougong.parallel.dense.unit_tensors import UnitTensors
from dougong.parallel.plan import Plan
from tests.parallel.dense.united import SHAPES, tensors_of
from tests.parallel.workers import plan_of, with_lanes
from tests.processes import run_workers
from torch import Tensor

LANES = 7
Arrays = dict[str, npt.NDArray[np.float32]]


def gradient(lane: int, name: str, step: int) -> Tensor:
    """Magnitudes apart, so that nearly every other order of additions gives other bits."""
    generator = torch.Generator().manual_seed(100000 * step + 1000 * lane + list(SHAPES).index(name))
    size = torch.Size(SHAPES[name])
    return torch.randn(size, generator=generator) * 10 ** torch.randn(size, generator=generator)


def step_of(reducer: OrderedReducer, flat: UnitTensors, lanes: tuple[int, ...], step: int, backwards: bool) -> Arrays:
    """Buckets of a unit are complete in any order."""
    numbers = list(range(len(flat.buckets)))
    for number in [numbers[1], numbers[0], *numbers[2:]] if backwards else numbers:
        reducer.open(number)
        for lane in lanes:
            for name in flat.buckets[number].shapes:
                reducer.sums(lane)[name].copy_(gradient(lane, name, step))
        reducer.complete(number)
    return {name: total.numpy().copy() for name, total in reducer.finish().items()}


def reduced(world: World, plan: Plan) -> Arrays:
    lanes, (flat, _) = plan.workers[world.rank].lanes, tensors_of(plan, world.rank)
    if not lanes:
        return {}
    reducer = UnitReducer(world, plan, flat)
    assert reducer.lane_bytes == 0
    for step in (2, 1, 0):
        sums = step_of(reducer, flat, lanes, step, backwards=bool(step))
        assert reducer.lane_bytes == 0, "nothing but what it owns is left"
    return sums


@pytest.mark.parametrize(
    "lanes", [[(0, 1), (2, 3, 4), (5, 6)], [(6,), (0, 1, 2, 3, 5), (4,)], [(0, 2, 4, 6), (), (1, 3, 5)]]
)
def test_three_workers_give_one_workers_bits(lanes: list[tuple[int, ...]]) -> None:
    alone = plan_of("B", LANES, shapes=SHAPES)
    flat, _ = tensors_of(alone, 0)
    due = step_of(OrderedReducer(World.alone(), alone, flat), flat, tuple(range(LANES)), 0, backwards=False)
    roles = "AEA" if () in lanes else "BBB"
    plan = with_lanes(plan_of(roles, LANES, shapes=SHAPES), lanes)
    found: Arrays = {}
    for rank, sums in enumerate(run_workers(reduced, plan)):
        assert sums.keys() == {name for name, owner in plan.owners.items() if owner == rank}
        found |= sums
    assert found.keys() == due.keys() == SHAPES.keys()
    assert all(np.array_equal(found[name], due[name]) and found[name].shape == SHAPES[name] for name in due)


def test_a_bucket_has_memory_from_its_first_gradient_until_its_sum_is_there() -> None:
    plan = plan_of("B", 2, shapes=SHAPES)
    flat, _ = tensors_of(plan, 0)
    reducer = UnitReducer(World.alone(), plan, flat)
    sizes = [2 * 4 * bucket.numel for bucket in flat.buckets]
    reducer.open(0)
    reducer.open(1)
    assert reducer.lane_bytes == sizes[0] + sizes[1]
    reducer.complete(0)
    reducer.complete(1)
    for number in range(2, len(sizes)):
        reducer.open(number)
        reducer.complete(number)
    assert {name: total.shape for name, total in reducer.finish().items()} == SHAPES
    assert reducer.lane_bytes == 0


def test_what_goes_wrong_in_the_thread_is_no_lost_peer() -> None:
    plan = plan_of("B", 2, shapes=SHAPES)
    flat, _ = tensors_of(plan, 0)
    reducer = UnitReducer(World.alone(), plan, flat)
    reducer.open(0)
    seen = [total.numpy() for name, total in reducer.sums(0).items() if name in flat.buckets[0].shapes]
    assert seen, "memory that numpy has looked at cannot be given back"
    reducer.complete(0)
    with pytest.raises(RuntimeError, match="not resizable"):
        reducer.open(len(flat.buckets) - 1)  # for which the first ones must have gone


def lose_a_peer(world: World, plan: Plan) -> str:
    flat, _ = tensors_of(plan, world.rank)
    reducer = UnitReducer(world, plan, flat)
    if world.rank == 1:
        return ""
    try:
        step_of(reducer, flat, plan.workers[world.rank].lanes, 0, backwards=False)
    except PeerError as error:
        return str(error)
    return "nobody was missed"


def test_a_peer_that_is_lost_is_told_by_whoever_waits_for_its_sums() -> None:
    text, _ = run_workers(lose_a_peer, plan_of("BB", 2, shapes=SHAPES))
    assert text.startswith("worker 0 ") and "gradients of bucket" in text
