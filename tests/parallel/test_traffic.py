"""Formulas of bytes, held against sums over every pair. That a real step sends them: tests/training/test_traffic.py."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Collection, Sequence

import pytest
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.plan import Inventory, Plan, Role, Seat, TensorSpec, make_plan
from dougong.parallel.traffic import (
    MOST_PLACES,
    Flow,
    Product,
    Ring,
    StepShape,
    bytes_by_link,
    crossing_of,
    flows_of_calls,
    flows_of_dense,
    islands_of,
    nodes_of,
)

MODEL = Inventory(
    "toy", (TensorSpec("a", (10,), True), TensorSpec("b", (3,), True, True), TensorSpec("c", (5,), False)),
    ("s", "t"), 8, (), experts_per_token=2, hidden_size=16,
)  # fmt: skip
SHAPE = StepShape(2, 32, 4, "at_attention", is_layout_free=True)


def plan_of(*nodes: str, model: Inventory = MODEL) -> Plan:
    """A worker of island `east` on each of these nodes."""
    seats = [Seat(f"east/{i}", "east", "both", node, f"cpu:{i}") for i, node in enumerate(nodes)]
    return make_plan(max(4, len(seats)), model, seats)


def amount(flow: Flow, sources: Collection[int], targets: Collection[int]) -> float:
    """Bytes from these workers to those."""
    return flow.between({"sources": sources, "targets": targets}).get(("sources", "targets"), 0.0)


def test_a_product_is_the_sum_over_pairs() -> None:
    drawn = random.Random(1)
    flow = Product(TrafficKind.ROWS, [drawn.random() for _ in range(6)], [drawn.random() for _ in range(6)])
    for sources, targets in (([0, 1], [2, 3]), ([0, 1, 2], [1, 2, 5]), (range(6), range(6)), ([4], [4])):
        due = sum(flow.of_source[s] * flow.of_target[t] for s, t in itertools.product(sources, targets) if s != t)
        assert amount(flow, sources, targets) == pytest.approx(due)


def test_a_ring_goes_round() -> None:
    ring = Ring(TrafficKind.COUNTS, [0, 1, 3], 30)
    assert amount(ring, [0], [1]) == amount(ring, [3], [0]) == 40
    assert amount(ring, [1], [0]) == 0 and amount(ring, range(4), range(4)) == 120


def drawn_crossing(num_experts: int, choices: int, here: int, idle: int = 0) -> float:
    """The part of all choices of experts that have one among the first `here`, counted one by one."""
    chosen = list(itertools.combinations(range(num_experts + idle), choices))
    return sum(any(expert < here for expert in one) for one in chosen) / len(chosen)


@pytest.mark.parametrize(
    ("choices", "here", "idle"), [(1, 3, 0), (2, 4, 0), (3, 1, 0), (2, 8, 0), (8, 2, 0), (2, 4, 4)]
)
def test_tokens_cross_as_often_as_choices_fall_there(choices: int, here: int, idle: int) -> None:
    model = Inventory("toy", (), (), 8, (), experts_per_token=choices, num_idle_experts=idle)
    crossing = crossing_of(100, model, here)
    assert crossing.num_tokens == pytest.approx(100 * drawn_crossing(8, choices, here, idle))
    assert crossing.num_rows == pytest.approx(100 * choices * here / (8 + idle))
    assert crossing.is_exact == (here == 8 or choices == 8)


def amounts(flows: Sequence[Product | Ring], kind: TrafficKind) -> float:
    return sum(amount(flow, [0], [1]) for flow in flows if flow.kind is kind)


def test_dense_tensors_by_hand() -> None:
    """Two owners of a tensor each, 256 elements with their padding; two lanes each: one node of the tree."""
    plan = plan_of("n", "n")
    wide = flows_of_dense(SHAPE, MODEL, plan)
    assert amounts(wide, TrafficKind.SUMS) == 4 * 256 and amounts(wide, TrafficKind.WEIGHTS) == 4 * 256
    half = StepShape(2, 32, 2, "at_attention", is_layout_free=False)
    narrow = flows_of_dense(half, MODEL, plan)
    owned = next(name for name, owner in plan.owners.items() if owner == 0 and name != "c")
    assert amounts(narrow, TrafficKind.WEIGHTS) == {"a": 2, "b": 4}[owned] * 256  # b stays float32
    assert amounts(narrow, TrafficKind.SUMS) == 4 * 512  # a ring of two: all of it, half twice


def test_links_between_places_add_up() -> None:
    plan = plan_of("n", "n", "m", "m")
    flows = flows_of_calls(SHAPE, MODEL, plan)
    assert islands_of(plan) == {"east on n": [0, 1], "east on m": [2, 3]} and nodes_of(plan) == {
        "n": [0, 1],
        "m": [2, 3],
    }
    links = bytes_by_link(flows, islands_of(plan))
    each = bytes_by_link(flows, {str(rank): [rank] for rank in range(4)})
    between = [each[str(s), str(t)][TrafficKind.ROWS].num_bytes for s in (0, 1) for t in (2, 3)]
    assert links["east on n", "east on m"][TrafficKind.ROWS].num_bytes == pytest.approx(sum(between))
    assert not links["east on n", "east on m"][TrafficKind.ROWS].is_exact
    assert links["east on n", "east on m"][TrafficKind.SIZES].is_exact
    assert ("0", "0") not in each


def test_where_links_would_be_too_many_places_are_larger() -> None:
    """As many places as workers would be a million links, each of which every worker is told."""
    many = dataclasses.replace(MODEL, num_experts=32)
    lone = plan_of("n", *["m"] * 2)
    wide = plan_of(*(f"n{i}" for i in range(MOST_PLACES + 1)), model=many)
    assert list(islands_of(lone)) == ["east on n", "east on m"] and len(nodes_of(lone)) == 2
    assert islands_of(wide) == {"east": list(range(MOST_PLACES + 1))} and not nodes_of(wide)
    roles: list[Role] = ["attention", *["experts"] * MOST_PLACES]
    seats = [Seat(f"i{i}/0", f"i{i}", role, "n", "cpu:0") for i, role in enumerate(roles)]
    assert islands_of(make_plan(1, many, seats)) == {
        "all attention": [0],
        "all experts": list(range(1, MOST_PLACES + 1)),
    }


def test_a_thousand_workers_take_no_pairs() -> None:
    model = Inventory("toy", (), tuple(map(str, range(60))), 2048, (), 8, 7168)
    seats = [Seat(f"east/{i}", "east", "both", f"n{i // 8}", "npu:0") for i in range(1024)]
    plan = make_plan(1024, model, seats)
    links = bytes_by_link(flows_of_calls(SHAPE, model, plan), {"first": range(512), "second": range(512, 1024)})
    assert links["first", "second"][TrafficKind.ROWS].num_bytes > 1e12 / 8
