"""Ordered reductions: three real processes give one process's bits, whoever holds which lanes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World, WorldGroups
from dougong.parallel.dense import buckets
from dougong.parallel.dense.allreduce import NativeReducer
from dougong.parallel.dense.buckets import FlatTensors, views_of
from dougong.parallel.dense.doubling import Doubling
from dougong.parallel.dense.ordered_reduce import OrderedReducer, Reducer, all_gather_parameters
from dougong.parallel.plan import Plan
from dougong.parallel.tree import LaneTree
from tests.parallel.workers import plan_of, with_lanes
from tests.processes import CONTEXT, run_workers
from torch import Tensor

SHAPES = {"embedding": (40, 7), "norm": (7,), "head": (40, 7), "scalar": (), "bias": (3, 1, 5)}
LANES = 7
MAPS = {
    "contiguous": [(0, 1), (2, 3, 4), (5, 6)],
    "strided": [(0, 3, 6), (1, 4), (2, 5)],
    "uneven": [(6,), (0, 1, 2, 3, 5), (4,)],
    "one without lanes": [(0, 2, 4, 6), (), (1, 3, 5)],
}
MANY, ONE = 192, buckets.BUCKET_BYTES


def gradient(lane: int, name: str, step: int = 0) -> Tensor:
    """Magnitudes apart, so that nearly every other order of additions gives other bits."""
    generator = torch.Generator().manual_seed(100000 * step + 1000 * lane + list(SHAPES).index(name))
    size = torch.Size(SHAPES[name])
    return torch.randn(size, generator=generator) * 10 ** torch.randn(size, generator=generator)


def flat_of(plan: Plan, fill: float = 0.0) -> FlatTensors:
    """Compute copies of every tensor; `norm` is kept in another dtype."""
    return FlatTensors({n: torch.full(s, fill).to(dtype_of(n)) for n, s in SHAPES.items()}, plan.owners)


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if name == "norm" else torch.bfloat16


def reduce_step(reducer: Reducer, flat: FlatTensors, lanes: tuple[int, ...], step: int = 0) -> dict[str, Tensor]:
    """The lanes' gradients come bucket by bucket; the last bucket is complete first."""
    for number in reversed(range(len(flat.buckets))):
        for lane in lanes:
            for name in flat.buckets[number].shapes:
                shared = reducer.sums(lane)[name] is reducer.sums(lanes[0])[name] and lane != lanes[0]
                target = reducer.sums(lane)[name]
                target.add_(gradient(lane, name, step)) if shared else target.copy_(gradient(lane, name, step))
        reducer.complete(number)
    return reducer.finish()


def reduced(world: World, plan: Plan, steps: int = 1) -> dict[str, Tensor]:
    """Sums of the last of some steps that this worker owns."""
    lanes, flat = plan.workers[world.rank].lanes, flat_of(plan)
    if not lanes:
        return {}
    reducer = OrderedReducer(world, plan, flat)
    for step in reversed(range(steps)):
        sums = reduce_step(reducer, flat, lanes, step)
    return sums


def spread_out(world: World, plan: Plan) -> dict[str, Tensor]:
    """Owners fill their tensors; everybody's begin as garbage."""
    flat = flat_of(plan, -1.0 - world.rank)
    views = {n: b.view(f, n) for b, f in zip(flat.buckets, flat.buffers, strict=True) for n in b.shapes}
    for name, owner in plan.owners.items():
        if owner == world.rank:
            views[name].copy_(gradient(99, name))
    all_gather_parameters(world, plan, flat)
    return views


def mapped(kind: str) -> Plan:
    roles = "AEA" if kind == "one without lanes" else "BBB"
    return with_lanes(plan_of(roles, LANES, shapes=SHAPES), MAPS[kind])


Arrays = dict[str, npt.NDArray[np.float32]]


def on_every_map(world: World, plan: Plan, bucket_bytes: int) -> dict[str, tuple[Arrays, Arrays, int]]:
    """Per map of lanes: the sums that this worker owns, everything after a spread, bytes sent for the sums."""
    buckets.BUCKET_BYTES = bucket_bytes  # this process ends with the task
    results = {}
    for kind in MAPS:
        before = world.sent.total(TrafficKind.SUMS)
        sums = {n: t.numpy() for n, t in reduced(world, mapped(kind), steps=3).items()}
        sent = world.sent.total(TrafficKind.SUMS) - before
        after = {n: t.float().numpy() for n, t in spread_out(world, mapped(kind)).items()}
        results[kind] = (sums, after, sent)
    return results


@functools.cache
def three_workers(bucket_bytes: int) -> list[dict[str, tuple[Arrays, Arrays, int]]]:
    return run_workers(on_every_map, plan_of("BBB"), bucket_bytes)


@pytest.mark.parametrize("bucket_bytes", [MANY, ONE], ids=["many buckets", "one bucket"])
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


@pytest.mark.parametrize("bucket_bytes", [MANY, ONE], ids=["many buckets", "one bucket"])
def test_everybody_with_lanes_gets_what_owners_updated(bucket_bytes: int) -> None:
    for kind in MAPS:
        for rank, result in enumerate(three_workers(bucket_bytes)):
            for name, tensor in result[kind][1].items():
                held = mapped(kind).workers[rank].lanes  # without lanes there are no dense tensors to fill
                expected = gradient(99, name) if held else torch.full(SHAPES[name], -1.0 - rank)
                assert np.array_equal(tensor, expected.to(dtype_of(name)).float().numpy()), (kind, rank, name)


MOST = 9
"""Workers, of which the first so and so many have lanes."""
WEIGHTS = {f"t{number}": (number % 5 + 1, 3) for number in range(31)}


def first_of(num_workers: int) -> Plan:
    """Lanes go round, so that none has neighbours; one worker has two more than the rest."""
    with_experts = MOST - num_workers
    plan = plan_of("A" * num_workers + "E" * with_experts if with_experts else "B" * MOST, MOST, MOST, shapes=WEIGHTS)
    around = [tuple(range(rank, 2 * num_workers, num_workers)) for rank in range(num_workers)]
    around[-1] += (2 * num_workers, 2 * num_workers + 1)
    return with_lanes(plan, around + [()] * with_experts)


def values_of(name: str) -> Tensor:
    """No two alike, and each of its own name."""
    begin = 1000 * list(WEIGHTS).index(name)
    return torch.arange(begin, begin + torch.Size(WEIGHTS[name]).numel()).float().view(WEIGHTS[name])


def handed_on(world: World, plan: Plan, bucket_bytes: int) -> list[tuple[Arrays, list[list[int]]]]:
    """For 9, 8 ... 1 workers: all that this one has then, and bytes and messages that it sent to each."""
    buckets.BUCKET_BYTES = bucket_bytes  # this process ends with the task
    found = []
    for num_workers in range(MOST, 0, -1):
        plan = first_of(num_workers)
        flat = FlatTensors({n: torch.full(s, -1.0) for n, s in WEIGHTS.items()}, plan.owners)
        views = views_of(flat.buckets, flat.buffers)
        for name, owner in plan.owners.items():
            if owner == world.rank:
                views[name].copy_(values_of(name))
        before = np.stack([world.sent.num_bytes, world.sent.num_messages])
        all_gather_parameters(world, plan, flat)
        sent = (np.stack([world.sent.num_bytes, world.sent.num_messages]) - before)[:, TrafficKind.WEIGHTS.number]
        found.append(({n: t.numpy() for n, t in views.items()}, sent.tolist()))
    return found


@pytest.mark.parametrize("bucket_bytes", [MANY, ONE], ids=["many buckets", "one bucket"])
def test_on_one_to_nine_workers_everybody_has_what_owners_have_and_gets_it_once(bucket_bytes: int) -> None:
    results = run_workers(handed_on, plan_of("B" * MOST, MOST, MOST), bucket_bytes)
    for number, num_workers in enumerate(range(MOST, 0, -1)):
        plan, ranks = first_of(num_workers), range(num_workers)
        flat = FlatTensors({n: torch.empty(s) for n, s in WEIGHTS.items()}, plan.owners)
        parts = {rank: 4.0 * sum(size_of_part(b.parts, rank) for b in flat.buckets) for rank in ranks}
        due = Doubling(ranks).crossing(parts)
        for rank in ranks:
            weights, (num_bytes, num_messages) = results[rank][number]
            assert all(np.array_equal(weights[name], values_of(name)) for name in WEIGHTS), (num_workers, rank)
            assert num_bytes == [due.get((rank, target), 0) for target in range(MOST)], (num_workers, rank)
            if bucket_bytes == ONE:
                assert num_messages == [int((rank, target) in due) for target in range(MOST)]
        assert sum(due.values()) == (num_workers - 1) * sum(parts.values()), "each part to each other worker, once"


def size_of_part(parts: Mapping[int, slice], rank: int) -> int:
    return parts[rank].stop - parts[rank].start if rank in parts else 0


def hand_on_in_vain(world: World, plan: Plan, together: Any) -> str:
    """Worker 2 takes no part, though it is there until the others have had enough."""
    world.begin_step(4)
    said = ""
    if world.rank != 2:
        with pytest.raises(PeerError) as caught:
            all_gather_parameters(world, plan, flat_of(plan))
        said = str(caught.value)
    together.wait(60)
    return said


def test_a_worker_that_hands_nothing_on_is_named_by_who_waits_for_it() -> None:
    """Worker 1 waits for worker 0, as that one's line to the controller says of it and worker 2."""
    plan, together = plan_of("BBB", LANES, shapes=SHAPES), CONTEXT.Barrier(3)
    said = run_workers(hand_on_in_vain, plan, together, deadlines=Deadlines(message_s=1.0))
    limit = "(fault.deadlines.message_s)"
    what = "updated parameters of bucket 0, round {}, step 4"
    assert said[0] == f"worker 0 (east/0) waited 1 s {limit} for worker 2 (east/2): {what.format(0)}"
    # Worker 0 gives up a moment sooner where worker 1 has begun to wait later; its line is closed then.
    waited = f"worker 1 (east/1) waited 1 s {limit} for worker 0 (east/0): {what.format(1)}"
    assert said[1] == waited or said[1].startswith(f"worker 1 (east/1) lost worker 0 (east/0): {what.format(1)}")


def test_the_sum_is_the_lanes_tree() -> None:
    alone = reduced(World.alone(), plan_of("B", LANES, shapes=SHAPES))
    for name, total in alone.items():
        leaves = {(lane, 1): gradient(lane, name) for lane in range(LANES)}
        assert torch.equal(total, LaneTree(LANES).sum(leaves)), name


def test_another_order_of_additions_would_show() -> None:
    """Negative control: the order in which lanes arrive, here by number in a chain."""
    alone = reduced(World.alone(), plan_of("B", LANES, shapes=SHAPES))
    chained = {n: functools.reduce(operator.add, [gradient(lane, n) for lane in range(LANES)]) for n in SHAPES}
    assert not torch.equal(alone["embedding"], chained["embedding"])
    torch.testing.assert_close(alone, chained, rtol=1e-4, atol=1e-3)


def test_a_worker_ships_its_nodes_of_what_others_own_and_nothing_else() -> None:
    sent = {kind: [result[kind][2] // 3 for result in three_workers(ONE)] for kind in MAPS}  # three steps
    for kind, of_rank in sent.items():
        plan, expected = mapped(kind), []
        parts = [b.parts for b in flat_of(plan).buckets]
        for worker in plan.workers:
            foreign = sum(p.stop - p.start for of in parts for rank, p in of.items() if rank != worker.rank)
            expected.append(4 * foreign * len(LaneTree(LANES).held(worker.lanes)) if worker.lanes else 0)
        assert of_rank == expected, kind
    assert sum(sent["contiguous"]) < sum(sent["strided"])


def test_an_incomplete_bucket_is_our_mistake() -> None:
    plan = plan_of("B", LANES, shapes=SHAPES)
    reducer = OrderedReducer(World.alone(), plan, flat_of(plan))
    reducer.complete(0)
    with pytest.raises(AssertionError, match="not complete"):
        reducer.finish()


def native_sums(world: World, plan: Plan) -> list[Arrays]:
    """Twice the same step by the library's own sum, on workers that all have lanes and on two of three."""
    results = []
    for kind in ("contiguous", "contiguous"):
        flat = flat_of(mapped(kind))
        reducer = NativeReducer(world, mapped(kind), flat)
        sums = reduce_step(reducer, flat, mapped(kind).workers[world.rank].lanes)
        results.append({n: t.clone().numpy() for n, t in sums.items()})
    return results


def test_the_librarys_sum_is_right_to_rounding_and_the_same_each_time() -> None:
    alone = reduced(World.alone(), plan_of("B", LANES, shapes=SHAPES))
    found: Arrays = {}
    for first, second in run_workers(native_sums, plan_of("BBB")):
        found |= first
        assert all(np.array_equal(first[n], second[n]) for n in first)
    assert found.keys() == SHAPES.keys()
    for name, total in found.items():
        assert np.allclose(total, alone[name].numpy(), rtol=1e-4, atol=1e-3), name
    assert any(not np.array_equal(total, alone[name].numpy()) for name, total in found.items()), "it has its own order"


def on_meta(rank: int, plan: Plan) -> World:
    """Of a worker that has memory of no device, and sends nothing."""
    ranks = tuple(range(len(plan.workers)))
    return World(Membership(rank, len(ranks), 1, "", (), torch.device("meta"), ranks), WorldGroups())


@pytest.mark.parametrize("num_workers", [8, 128])
def test_scratch_memory_is_less_than_a_bucket_with_the_shapes_of_deepseek_v3(num_workers: int) -> None:
    """Its embedding and one layer; on the meta device, for each worker that owns much or little."""
    shapes = {"embedding": (129280, 7168), "q_b": (24576, 1536), "o": (7168, 16384), "gate_up": (18432, 7168)}
    shapes |= {f"norm{number}": (7168,) for number in range(128)}
    plan = plan_of("B" * num_workers, num_workers, num_experts=num_workers, shapes=shapes)
    with torch.device("meta"):
        flat = FlatTensors({name: torch.empty(shape) for name, shape in shapes.items()}, plan.owners)
    largest = max(4 * bucket.numel for bucket in flat.buckets)
    for rank in (0, num_workers // 2, num_workers - 1):
        assert OrderedReducer(on_meta(rank, plan), plan, flat).scratch_bytes < largest
