"""Ordered reductions: three real processes give one process's bits, whoever holds which lanes."""

from __future__ import annotations

import functools
import operator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dougong.parallel import reduce
from dougong.parallel.plan import Plan
from dougong.parallel.reduce import OrderedReducer
from dougong.parallel.transport import World
from tests.parallel.workers import plan_of, with_lanes
from tests.processes import run_workers

SHAPES = {"embedding": (40, 7), "norm": (7,), "head": (40, 7), "scalar": (), "bias": (3, 1, 5)}
LANES = 7
MAPS = {
    "contiguous": [(0, 1), (2, 3, 4), (5, 6)],
    "strided": [(0, 3, 6), (1, 4), (2, 5)],
    "uneven": [(6,), (0, 1, 2, 3, 5), (4,)],
    "one without lanes": [(0, 2, 4, 6), (), (1, 3, 5)],
}


def gradient(lane: int, name: str) -> Tensor:
    """Magnitudes apart, so that nearly every other order of additions gives other bits."""
    generator = torch.Generator().manual_seed(1000 * lane + list(SHAPES).index(name))
    size = torch.Size(SHAPES[name])
    return torch.randn(size, generator=generator) * 10 ** torch.randn(size, generator=generator)


def reduced(world: World, plan: Plan) -> dict[str, Tensor]:
    reducer = OrderedReducer(world, plan, {n: torch.Size(s) for n, s in SHAPES.items()})
    return reducer.reduce({lane: {n: gradient(lane, n) for n in SHAPES} for lane in plan.workers[world.rank].lanes})


def spread(world: World, plan: Plan) -> dict[str, Tensor]:
    """Owners fill their tensors; everybody's begin as garbage. `norm` is kept in another dtype."""
    reducer = OrderedReducer(world, plan, {n: torch.Size(s) for n, s in SHAPES.items()})
    tensors = {n: torch.full(s, -1.0 - world.rank).to(dtype_of(n)) for n, s in SHAPES.items()}
    for name, owner in plan.owners.items():
        if owner == world.rank:
            tensors[name].copy_(gradient(99, name))
    reducer.spread(tensors)
    return tensors


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if name == "norm" else torch.bfloat16


def mapped(kind: str) -> Plan:
    roles = "AEA" if kind == "one without lanes" else "BBB"
    return with_lanes(plan_of(roles, LANES, shapes=SHAPES), MAPS[kind])


Arrays = dict[str, npt.NDArray[np.float32]]


def on_every_map(world: World, plan: Plan, bucket_bytes: int) -> dict[str, tuple[Arrays, Arrays, int]]:
    """Per map of lanes: the sums that this worker owns, everything after a spread, bytes sent."""
    reduce.BUCKET_BYTES = bucket_bytes  # this process ends with the task
    results = {}
    for kind in MAPS:
        before = world.bytes_sent
        sums = {n: t.numpy() for n, t in reduced(world, mapped(kind)).items()}
        after = {n: t.float().numpy() for n, t in spread(world, mapped(kind)).items()}
        results[kind] = (sums, after, world.bytes_sent - before)
    return results


@functools.cache
def three_workers(bucket_bytes: int) -> list[dict[str, tuple[Arrays, Arrays, int]]]:
    return run_workers(on_every_map, plan_of("BBB"), bucket_bytes)


@pytest.mark.parametrize("bucket_bytes", [64, reduce.BUCKET_BYTES], ids=["many messages", "one message"])
def test_three_workers_give_one_workers_bits_on_every_map_of_lanes(bucket_bytes: int) -> None:
    alone = reduced(World.alone(), plan_of("B", LANES, shapes=SHAPES))
    results = three_workers(bucket_bytes)
    for kind in MAPS:
        sums: Arrays = {}
        for rank, result in enumerate(results):
            assert result[kind][0].keys() == {n for n, owner in mapped(kind).owners.items() if owner == rank}, kind
            sums |= result[kind][0]
        assert sums.keys() == SHAPES.keys()
        for name, total in sums.items():
            assert total.shape == SHAPES[name] and np.array_equal(total, alone[name].numpy()), (kind, name)


@pytest.mark.parametrize("bucket_bytes", [64, reduce.BUCKET_BYTES], ids=["many messages", "one message"])
def test_everybody_with_lanes_gets_what_owners_updated(bucket_bytes: int) -> None:
    for kind in MAPS:
        for rank, result in enumerate(three_workers(bucket_bytes)):
            for name, tensor in result[kind][1].items():
                held = mapped(kind).workers[rank].lanes  # without lanes there are no dense tensors to fill
                expected = gradient(99, name) if held else torch.full(SHAPES[name], -1.0 - rank)
                assert np.array_equal(tensor, expected.to(dtype_of(name)).float().numpy()), (kind, rank, name)


def test_another_order_of_additions_would_show() -> None:
    alone = reduced(World.alone(), plan_of("B", LANES, shapes=SHAPES))
    chained = {n: functools.reduce(operator.add, [gradient(lane, n) for lane in range(LANES)]) for n in SHAPES}
    assert not torch.equal(alone["embedding"], chained["embedding"])
    torch.testing.assert_close(alone, chained, rtol=1e-4, atol=1e-3)


def test_gathered_lanes_ship_less_than_scattered_ones() -> None:
    sent = {kind: sum(result[kind][2] for result in three_workers(reduce.BUCKET_BYTES)) for kind in MAPS}
    assert sent["contiguous"] < sent["strided"]


def test_buckets_hold_whole_tensors_in_order() -> None:
    shapes = {f"t{i}": torch.Size((size,)) for i, size in enumerate((5, 1, 1, 9, 2))}
    whole = reduce._buckets(shapes)
    assert whole == [list(shapes)]
    big = {n: torch.Size((reduce.BUCKET_BYTES // 8,)) for n in "abcde"}
    assert reduce._buckets(big) == [["a", "b"], ["c", "d"], ["e"]]
    assert reduce._buckets({}) == []
