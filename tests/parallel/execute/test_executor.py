"""Runs whole micro-batches over hand-made models: what each call becomes, and models that cannot be run are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from dougong.errors import ModelError
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert
from dougong.parallel.comm.world import World
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.dispatch.spec import DispatchSpec
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.execute.clock import Clock
from dougong.parallel.execute.executor import Executor, Training
from dougong.parallel.execute.shard import ExpertShard
from dougong.parallel.schedules.colocated import colocated
from dougong.parallel.schedules.message_order import message_order
from dougong.parallel.schedules.operation import Program
from dougong.parallel.segments.cut import Cut
from dougong.parallel.segments.flight import Forward, pause_at_experts
from dougong.parallel.segments.tape import leaf_node
from tests.parallel.kept import Kept
from tests.parallel.workers import plan_of
from torch import Tensor

HIDDEN, INNER, EXPERTS, TOKENS, LANES = 4, 6, 3, 5, 2


def experts(site: int) -> dict[int, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(site)
    shapes = {"gate_up_proj": (2 * INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
    return {e: {n: torch.randn(s, generator=generator) for n, s in shapes.items()} for e in range(EXPERTS)}


class Bench:
    """An executor of one worker with two sites, and a model of one weight per lane-independent segment."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int]] = []
        cut = Cut(("first.experts", "second.experts"), EXPERTS, False)
        world = World.alone()
        plan = plan_of("B", LANES, EXPERTS)
        dispatcher = Dispatcher(0, plan, DispatchSpec(HIDDEN, torch.float32, torch.device("cpu")), False)
        self.shard = ExpertShard(ByBlock(SwiGLUExpert()), [experts(0), experts(1)])
        clock = Clock(note=lambda phase, operation: self.notes.append((phase, operation)))
        self.executor = Executor(cut, dispatcher, self.shard, Exchange(world), clock)
        self.weights = [torch.full((HIDDEN,), 1.0 + i).requires_grad_() for i in range(3)]
        self._sinks: dict[int, Kept] = {}

    def train(self, forwards: Mapping[int, Forward], scale: float = 1.0, microbatches: int = 1) -> dict[int, Tensor]:
        """The losses of the last micro-batch by lane; every micro-batch is the same."""
        program = Program("east/0", "both", tuple(colocated(2, microbatches, "both")))
        training = Training(lambda microbatch: forwards, scale, self.sink)
        losses = self.executor.train(program, message_order([program]), training)
        return {lane: loss for (lane, microbatch), loss in losses.items() if microbatch == microbatches - 1}

    def sink(self, lane: int, microbatch: int) -> Kept:
        self._sinks[lane] = Kept()
        return self._sinks[lane]

    @property
    def gradients(self) -> dict[tuple[int, int], Tensor]:
        """Of the last micro-batch, by lane and weight."""
        names = {leaf_node(w): i for i, w in enumerate(self.weights)}
        found = {}
        for lane, sink in self._sinks.items():
            assert sink.ended
            found |= {(lane, names[node]): gradient for node, gradient in sink.taken}
        return found

    def forward(self, lane: int, sites: tuple[int, ...] = (0, 1), call: Callable = pause_at_experts) -> Tensor:
        hidden = torch.arange(float(TOKENS * HIDDEN)).view(TOKENS, HIDDEN) / 20 + lane
        for number, site in enumerate(sites):
            hidden = hidden * self.weights[number]
            index = (torch.arange(TOKENS * 2).view(TOKENS, 2) + lane) % EXPERTS
            hidden = hidden + call(site, hidden, index, torch.full((TOKENS, 2), 0.5))
        return (hidden * self.weights[-1]).sum()

    def forwards(self, **how: tuple[int, ...]) -> Mapping[int, Forward]:
        return {lane: Forward(lambda lane=lane: self.forward(lane, **how)) for lane in range(LANES)}


def engine_experts(site: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The same experts for the engine, token by token."""
    total = torch.zeros_like(hidden)
    for expert, tensors in experts(site).items():
        gate, up = (hidden @ tensors["gate_up_proj"].t()).chunk(2, dim=-1)
        answer = (torch.nn.functional.silu(gate) * up) @ tensors["down_proj"].t()
        total = total + answer * (weights * (index == expert)).sum(-1, keepdim=True)
    return total


def test_lanes_get_their_own_losses_and_gradients() -> None:
    bench = Bench()
    losses = bench.train(bench.forwards(), 0.25)
    for lane in range(LANES):
        expected = bench.forward(lane, call=engine_experts)
        torch.testing.assert_close(losses[lane], expected.detach(), rtol=1e-5, atol=1e-5)
        for number, gradient in enumerate(torch.autograd.grad(expected * 0.25, bench.weights)):
            torch.testing.assert_close(bench.gradients[lane, number], gradient, rtol=1e-4, atol=1e-4)
    assert not any(losses[lane].requires_grad for lane in losses)


def test_progress_is_noted_site_by_site() -> None:
    bench = Bench()
    bench.train(bench.forwards(), microbatches=2)
    forward = [("forward", n) for n in (0, 0, 1, 1, 2)]  # segment, experts, segment, experts, the last segment
    backward = [("backward", n) for n in (2, 1, 1, 0, 0)]
    assert bench.notes == [(w, 3 * m + n) for m in range(2) for w, n in forward + backward]


def test_evaluation_gives_the_same_losses_without_gradients_also_for_some_lanes() -> None:
    bench = Bench()
    trained = bench.train(bench.forwards())
    bench.shard.zero_gradients()
    whole = bench.executor.evaluate("both", bench.forwards())
    some = bench.executor.evaluate("both", {1: bench.forwards()[1]})
    assert whole.keys() == {0, 1} and some.keys() == {1}
    assert all(torch.equal(whole[lane], trained[lane]) for lane in whole) and torch.equal(some[1], trained[1])
    for site in range(2):
        with pytest.raises(KeyError):  # nothing is kept for a backward that will not come
            bench.shard.backward((site, 0), torch.empty(0, HIDDEN))
    assert bench.executor.evaluate("both", {}) == {}


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ((), "ended its forward without calling first.experts"),
        ((0,), "ended its forward without calling second.experts; it cannot be cut"),
        ((1, 0), "called second.experts where first.experts was due"),
        ((0, 0), "called first.experts where second.experts was due"),
        ((0, 1, 1), "called its experts more than 2 times in one forward"),
    ],
)
def test_a_model_that_does_not_call_each_site_once_in_order_is_refused(sites: tuple[int, ...], message: str) -> None:
    bench = Bench()
    bench.weights = [torch.ones(HIDDEN, requires_grad=True) for _ in range(4)]
    with pytest.raises(ModelError, match=message):
        bench.train(bench.forwards(sites=sites))


def test_an_error_of_the_model_comes_out_as_it_is() -> None:
    bench = Bench()

    def broken() -> Tensor:
        pause_at_experts(0, torch.zeros(1, HIDDEN), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1))
        raise ZeroDivisionError("in the model")

    with pytest.raises(ZeroDivisionError, match="in the model"):
        bench.train({0: Forward(broken)})


def test_each_segment_begins_where_it_is_told_to() -> None:
    """Random numbers belong to a segment: they do not depend on what else ran in the process meanwhile."""
    bench = Bench()
    begun: list[tuple[int, int]] = []
    forwards = {
        lane: Forward(lambda lane=lane: bench.forward(lane), lambda segment, lane=lane: begun.append((lane, segment)))
        for lane in range(LANES)
    }
    bench.train(forwards)
    assert begun == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
