"""Dense gradients: added in micro-batch order; buckets leave when they are complete, and never before."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import ModelError
from dougong.parallel.comm.world import World
from dougong.parallel.dense import buckets
from dougong.parallel.dense.buckets import FlatTensors
from dougong.parallel.dense.gradients import DenseGradients, LaneSink
from dougong.parallel.dense.ordered_reduce import OrderedReducer
from dougong.parallel.segments.tape import leaf_node
from tests.parallel.workers import plan_of

NAMES = ("first", "second", "third")
SHAPES: dict[str, tuple[int, ...]] = dict.fromkeys(NAMES, (4,))
LANES = 2


class Bench:
    """One worker with two lanes and three tensors, each in a bucket of its own: third, second, first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_microbatches: int = 2) -> None:
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 1)
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
        self.gradients = DenseGradients(
            leaves, range(LANES), self.reducer, flat.buckets, num_microbatches=num_microbatches
        )
        self._sinks: dict[tuple[int, int], LaneSink] = {}

    def begin(self, lane: int, microbatch: int, *names: str) -> None:
        sink = self._sinks[lane, microbatch] = self.gradients.sink(lane, microbatch)
        sink.begin([leaf_node(self.tensors[name]) for name in names])

    def take(self, lane: int, microbatch: int, name: str, value: float) -> None:
        self._sinks[lane, microbatch].take(leaf_node(self.tensors[name]), torch.full((4,), value))

    def end(self, lane: int, microbatch: int) -> None:
        self._sinks[lane, microbatch].end()

    def microbatch(self, number: int, **values: float) -> None:
        """A micro-batch of both lanes, from its beginning to its end."""
        for lane in range(LANES):
            self.begin(lane, number, *values)
        for lane in range(LANES):
            for name, value in values.items():
                self.take(lane, number, name, value)
            self.end(lane, number)

    def finish(self) -> dict[str, float]:
        return {n: float(t.sum()) for n, t in self.gradients.finish().items()}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_bucket_leaves_with_the_last_gradient_that_can_come_for_it(bench: Bench) -> None:
    for _ in range(2):
        bench.left.clear()
        bench.gradients.start()
        bench.microbatch(0, third=1.0)
        bench.begin(0, 1, "third", "second")
        bench.take(0, 1, "third", 2.0)
        assert bench.left == [], "another lane's last micro-batch has not begun"
        bench.begin(1, 1, "third")
        assert bench.left == [2], "nobody can add to the first tensor any more"
        bench.take(1, 1, "third", 2.0)
        assert bench.left == [2, 0]
        bench.take(0, 1, "second", 5.0)
        assert bench.left == [2, 0, 1]
        bench.end(0, 1)
        bench.end(1, 1)
        assert bench.finish() == {"first": 0, "second": 20, "third": 24}


def test_what_was_expected_and_did_not_come_holds_nothing_up(bench: Bench) -> None:
    bench.microbatch(0, first=1.0)
    bench.begin(0, 1, "first", "second")
    bench.begin(1, 1, "first")
    bench.take(0, 1, "first", 1.0)
    bench.take(1, 1, "first", 1.0)
    bench.end(1, 1)
    assert bench.left == [0, 2]
    bench.end(0, 1)
    assert bench.left == [0, 2, 1]
    assert bench.finish() == {"first": 16, "second": 0, "third": 0}


def test_a_gradient_of_zero_is_one_and_none_is_none(bench: Bench) -> None:
    """And another step's gradients say nothing of this one's."""
    bench.microbatch(0, first=1.0)
    bench.microbatch(1, second=0.0)
    assert bench.gradients.reached == {"first", "second"}
    bench.finish()
    bench.gradients.start()
    bench.microbatch(0, first=1.0)
    bench.microbatch(1)
    assert bench.gradients.reached == {"first"}
    assert bench.finish() == {"first": 8, "second": 0, "third": 0}


def test_a_tensor_that_is_no_dense_one_is_an_experts(bench: Bench) -> None:
    sink = bench.gradients.sink(0, 0)
    with pytest.raises(ModelError, match="uses its experts' weights outside"):
        sink.take(leaf_node(torch.zeros(1, requires_grad=True)), torch.zeros(1))


@pytest.mark.parametrize("overtakes", [False, True])
def test_micro_batches_are_added_in_order_also_where_one_overtakes_another(
    monkeypatch: pytest.MonkeyPatch, overtakes: bool
) -> None:
    """The graph of the later one may use the tensor in another segment, which is walked earlier."""
    bench = Bench(monkeypatch, num_microbatches=3)
    order = (2, 0, 1) if overtakes else (0, 1, 2)
    for microbatch in range(3):
        for lane in range(LANES):
            bench.begin(lane, microbatch, "first")
    values = (1e8, 1.0, -1e8)
    for microbatch in order:
        for lane in range(LANES):
            bench.take(lane, microbatch, "first", values[microbatch])
    total = bench.gradients.finish()["first"]
    chain = (torch.tensor(values[0]) + values[1]) + values[2]
    assert torch.equal(total, (chain + chain).expand(4))
    assert not torch.equal(chain, (torch.tensor(values[2]) + values[0]) + values[1]), "the order shows"
