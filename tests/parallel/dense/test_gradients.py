"""Dense gradients: added in micro-batch order; buckets leave when they are complete, and never before."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import ModelError
from dougong.parallel.comm.world import World
from dougong.parallel.dense import buckets
from dougong.parallel.dense.buckets import FlatTensors
from dougong.parallel.dense.gradients import DenseGradients
from dougong.parallel.dense.ordered_reduce import OrderedReducer
from dougong.parallel.segments.tape import leaf_node
from tests.parallel.workers import plan_of
from torch import Tensor

NAMES = ("first", "second", "third")
SHAPES: dict[str, tuple[int, ...]] = dict.fromkeys(NAMES, (4,))
LANES = 2


class Bench:
    """One worker with two lanes and three tensors, each in a bucket of its own: third, second, first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interleaved: bool = False) -> None:
        monkeypatch.setattr(buckets, "MESSAGE_BYTES", 1)
        plan = plan_of("B", LANES, shapes=SHAPES)
        self.tensors = {n: torch.zeros(4, requires_grad=True) for n in NAMES}
        with torch.no_grad():
            flat = FlatTensors(self.tensors, plan.owners)
        self.reducer = OrderedReducer(World.alone(), plan, flat)
        self.left: list[int] = []
        complete = self.reducer.complete

        def watched(number: int) -> None:
            self.left.append(number)
            complete(number)

        self.reducer.complete = watched  # type: ignore[method-assign]
        leaves = {leaf_node(t): n for n, t in self.tensors.items()}
        self.gradients = DenseGradients(leaves, range(LANES), self.reducer, flat.buckets, interleaved=interleaved)

    def take(self, lane: int, name: str, value: float, last: bool = True) -> None:
        self.gradients.sink(lane, last)(leaf_node(self.tensors[name]), torch.full((4,), value))

    def step(self, *names: str) -> dict[str, Tensor]:
        self.gradients.start()
        for name in names:
            for lane in range(LANES):
                self.take(lane, name, 1.0 + lane)
        return {n: t.clone() for n, t in self.gradients.finish().items()}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_first_step_learns_and_the_next_ones_send_early(bench: Bench) -> None:
    expected = bench.step("third", "second", "first")
    assert bench.left == [0, 1, 2] and all((t == 3).all() for t in expected.values())
    bench.left.clear()
    bench.gradients.start()
    for lane in range(LANES):
        bench.take(lane, "third", 1.0, last=False)
    assert bench.left == [], "another micro-batch follows"
    bench.take(0, "third", 2.0)
    assert bench.left == [], "another lane follows"
    bench.take(1, "third", 2.0)
    assert bench.left == [0]
    sums = bench.gradients.finish()
    assert bench.left == [0, 1, 2]
    assert {n: float(t.sum()) for n, t in sums.items()} == {"first": 0, "second": 0, "third": 24}


def test_what_receives_nothing_is_zero_and_does_not_hold_up_others(bench: Bench) -> None:
    bench.step("third", "second", "first")
    sums = bench.step("third", "first")
    assert {n: float(t.sum()) for n, t in sums.items()} == {"first": 12, "second": 0, "third": 12}


def test_a_tensor_that_never_has_a_gradient_has_a_zero_one(bench: Bench) -> None:
    for _ in range(2):
        sums = bench.step("third")
        assert {n: float(t.sum()) for n, t in sums.items()} == {"first": 0, "second": 0, "third": 12}


def test_a_gradient_after_its_bucket_has_left_is_refused(bench: Bench) -> None:
    bench.step("third", "second", "first")
    bench.gradients.start()
    for lane in range(LANES):
        bench.take(lane, "third", 1.0)
    with pytest.raises(ModelError, match="third received more gradients in this step than in the first"):
        bench.take(0, "third", 1.0)


def test_a_tensor_that_is_no_dense_one_is_an_experts(bench: Bench) -> None:
    with pytest.raises(ModelError, match="uses its experts' weights outside"):
        bench.gradients.sink(0, True)(leaf_node(torch.zeros(1, requires_grad=True)), torch.zeros(1))


def test_micro_batches_are_added_in_order(bench: Bench) -> None:
    values = (1e8, 1.0, -1e8)  # the order shows
    bench.gradients.start()
    for lane in range(LANES):
        for number, value in enumerate(values):
            bench.take(lane, "first", value, last=number == 2)
    total = bench.gradients.finish()["first"]
    chain = (torch.tensor(values[0]) + values[1]) + values[2]
    assert torch.equal(total, (chain + chain).expand(4))


def test_a_tensor_of_several_segments_is_refused_where_micro_batches_overtake_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its gradients would be added in the order of the schedule."""
    in_order, overtaking = Bench(monkeypatch), Bench(monkeypatch, interleaved=True)
    sink = in_order.gradients.sink(0, False)
    leaf = leaf_node(in_order.tensors["first"])
    sink(leaf, torch.ones(4))
    sink(leaf, torch.ones(4))  # one after the other, their order is that of the model
    sink = overtaking.gradients.sink(0, False)
    leaf = leaf_node(overtaking.tensors["first"])
    sink(leaf, torch.ones(4))
    with pytest.raises(ModelError, match="first is used in several segments .* set pipeline: serial"):
        sink(leaf, torch.ones(4))
