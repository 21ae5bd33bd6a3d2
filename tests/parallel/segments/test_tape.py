"""The walk and the flights: every family's loss and gradients, bit by bit those of `loss.backward()`."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from dougong.job.schema import Job
from dougong.models.sites import find_sites
from dougong.models.ties import break_ties_by_index
from dougong.ops import permute as ops
from dougong.ops.permute import Routing
from dougong.parallel.execute.shard import ExpertShard
from dougong.parallel.segments.flight import Flight, Forward
from dougong.parallel.segments.tape import GraphNode, TapeWalk, leaf_node, sequence_now
from dougong.training.replica import Replica
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.families import FAMILIES, config_values
from tests.jobs import Rig, make_job, make_rig, tokens
from tests.parallel.sharing import share_weights
from tests.parallel.workers import blocks_of
from tests.reference import combine_backward, compute_experts_alike, reference_gradients, reference_model, run_plainly
from torch import Tensor

# ---------------------------------------------------------------------------------------------------------------------
# Whole models


def one_microbatch(family: str, tied: bool = False) -> Job:
    config = config_values(family, tie_word_embeddings=tied)
    return make_job(
        family,
        model={"family": family, "config": config},
        batch={"lanes": 1, "microbatches": 1, "microbatch_size": 2},
    )


def rig_gradients(rig: Rig) -> tuple[float, dict[str, Tensor]]:
    """Forward and backward of one step; loss, and gradients by tensor name."""
    found = rig.stepper.gradients(1, rig.forwards(1))
    (loss,) = found.losses.values()
    return loss, dict(found.tensors)


def shard_gradients(replica: Replica, shard: ExpertShard) -> dict[str, Tensor]:
    return {
        site.tensor_name(p, e): gradient
        for site, of in zip(replica.sites, shard.gradients, strict=True)
        for e, tensors in of.items()
        for p, gradient in tensors.items()
    }


def differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [name for name, gradient in theirs.items() if not torch.equal(ours[name], gradient)]


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied embeddings"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_are_those_of_backward_bit_by_bit(family: str, tied: bool) -> None:
    job = one_microbatch(family, tied)
    loss, gradients = rig_gradients(make_rig(job))
    reference = reference_model(job)
    sites = find_sites(reference)
    compute_experts_alike(reference, sites)
    assert run_plainly(job, reference) == loss
    theirs = reference_gradients(reference, sites)
    assert differing(gradients, theirs) == []
    assert ("lm_head.weight" in theirs) != tied and sum(bool(g.any()) for g in theirs.values()) > 40


def test_a_family_with_its_own_autograd_function_is_walked() -> None:
    """phimoe's router is one, with noise in training: both runs draw the same."""
    values = {k: v for k, v in config_values("mixtral").items() if k != "head_dim"}
    model = {"family": "phimoe", "config": values}
    job = make_job(model=model, batch={"lanes": 1, "microbatches": 1, "microbatch_size": 2})
    rig, reference = make_rig(job), reference_model(job)
    torch.manual_seed(3)
    loss, gradients = rig_gradients(rig)
    sites = find_sites(reference)
    compute_experts_alike(reference, sites)
    torch.manual_seed(3)
    assert run_plainly(job, reference) == loss
    assert differing(gradients, reference_gradients(reference, sites)) == []


@pytest.mark.parametrize("family", ["qwen3_moe", "zaya"])
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied embeddings"])
def test_weights_that_are_used_several_times_have_the_engines_gradient(family: str, tied: bool) -> None:
    """Twice in a segment (zaya calls a projection twice in a layer), in several segments, and on data's word."""
    job = one_microbatch(family, tied)
    rig, reference = make_rig(job), reference_model(job)
    if family == "qwen3_moe":
        share_weights(rig.replica.model)
        share_weights(reference)
    loss, gradients = rig_gradients(rig)
    sites = find_sites(reference)
    compute_experts_alike(reference, sites)
    assert run_plainly(job, reference) == loss
    theirs = reference_gradients(reference, sites)
    assert differing(gradients, theirs) == []
    assert sum(bool(g.any()) for g in theirs.values()) > 30


TOLERANCE = {"qwen3_next": 5e-5}
"""Relative error of a gradient's norm against transformers' own experts, elsewhere 1e-6. There the same products are
added in another order, so a gradient moves by some roundings of 6e-8 (measured: 2e-7); qwen3_next's linear attention
divides by small numbers, which makes more of them (measured: 5e-6)."""


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_close_to_transformers_own_experts(family: str) -> None:
    job = one_microbatch(family)
    loss, gradients = rig_gradients(make_rig(job))
    own = reference_model(job)
    break_ties_by_index(own, find_sites(own))
    assert run_plainly(job, own) == pytest.approx(loss, rel=1e-6)
    for name, theirs in reference_gradients(own, find_sites(own)).items():
        error = float((gradients[name] - theirs).norm())
        assert error <= TOLERANCE.get(family, 1e-6) * float(theirs.norm()), name


# ---------------------------------------------------------------------------------------------------------------------
# Micro-batches in flight, driven by hand


class Pilot:
    """One micro-batch of a rig, moved one piece at a time: to the next experts call, or back to the one before."""

    def __init__(self, rig: Rig, microbatch: int) -> None:
        self._rig, self._microbatch = rig, microbatch
        replica = rig.replica
        self.shard = ExpertShard(rig.stepper.parts.share.blueprint.op, replica.experts)
        ids = tokens(rig.job, 1, 0, microbatch)
        forward = Forward(lambda: replica.model(input_ids=ids, labels=ids, use_cache=False).loss)
        self._flight = Flight(forward, True)
        self._names = {leaf_node(t): n for n, t in replica.leaves}
        self.gradients = {n: torch.zeros_like(t) for n, t in replica.leaves}
        self._routings: list[tuple[Routing, Tensor]] = []
        self.loss: float | None = None

    def pieces(self) -> list[Callable[[], None]]:
        """Everything to do, in order."""
        sites = len(self._rig.replica.sites)
        forward = [self._flight.start, *(lambda s=s: self._resume(s) for s in range(sites))]
        backward = [lambda s=s: self._back(s) for s in reversed(range(sites))]
        return [*forward, self._turn, *backward, lambda: self._flight.end_backward(self)]

    def _resume(self, site: int) -> None:
        call = self._flight.calls[-1]
        routing = ops.make_routing(call.index, 8, self._rig.replica.cut.has_identity)
        with torch.no_grad():
            rows = ops.permute(call.hidden.detach(), routing)
            answers = self.shard.forward(
                (site, self._microbatch), rows, blocks_of(range(8), {0: routing.counts_E.tolist()})
            )
            combined = ops.unpermute(answers, call.hidden, call.weights, routing)
        self._routings.append((routing, answers))
        self._flight.resume(combined)

    def _turn(self) -> None:
        with torch.no_grad():
            self.loss = float(self._flight.begin_backward(1.0, self))

    @torch.no_grad()
    def _back(self, site: int) -> None:
        call, dout = self._flight.backward_to_call(self)
        routing, answers = self._routings.pop()
        danswers, dweights = combine_backward(dout, answers, call.hidden, call.weights, routing)
        drows, again = self.shard.backward((site, self._microbatch), danswers)
        assert torch.equal(again, answers)
        self.shard.add_weights((site, self._microbatch))
        self._flight.add_input_gradients(call, ops.permute_backward(drows, dout, call.weights, routing), dweights)

    def begin(self, leaves: Iterable[GraphNode]) -> None:
        self._expected = {self._names[leaf] for leaf in leaves if leaf in self._names}

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        self._expected.remove(self._names[leaf])
        self.gradients[self._names[leaf]].copy_(gradient)

    def end(self) -> None:
        assert not self._expected, "all of them came"


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_interleaved_in_any_order_keep_their_bits(family: str, order: int) -> None:
    """Forward pieces of one run between backward pieces of the other; each still gets `loss.backward()`'s bits."""
    job = one_microbatch(family)
    rig = make_rig(job)
    pilots = [Pilot(rig, m) for m in range(2)]
    queues = [p.pieces() for p in pilots]
    choose = random.Random(order)
    with torch.no_grad():
        while any(queues):
            choose.choice([q for q in queues if q]).pop(0)()
    for microbatch, pilot in enumerate(pilots):
        reference = reference_model(job)
        sites = find_sites(reference)
        compute_experts_alike(reference, sites)
        assert run_plainly(job, reference, microbatch) == pilot.loss
        ours = pilot.gradients | shard_gradients(rig.replica, pilot.shard)
        assert differing(ours, reference_gradients(reference, sites)) == []


class Held:
    """What a graph keeps of a saved tensor, so that its life can be watched."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_memory_is_released_as_the_walk_goes() -> None:
    rig = make_rig(one_microbatch("qwen3_moe"))
    pilot = Pilot(rig, 0)
    saved: list[list[weakref.ref[Held]]] = []

    def keep(tensor: Tensor) -> Held:
        held = Held(tensor.detach())  # with its graph it would keep itself alive
        saved[-1].append(weakref.ref(held))
        return held

    def alive() -> list[int]:
        gc.collect()
        return [sum(r() is not None for r in refs) for refs in saved]

    pieces = pilot.pieces()
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda held: held.tensor):
        for _ in range(4):  # the segments of three sites
            saved.append([])
            pieces.pop(0)()
        whole = alive()
        assert min(whole) > 5
        pieces.pop(0)()  # the loss
        for segment in (3, 2, 1, 0):
            pieces.pop(0)()
            left = alive()
            assert left[segment:] == [0] * (4 - segment), "what the walk has passed is gone, though the flight lives"
            assert left[:segment] == whole[:segment], "what it has not reached is kept"
    assert not pieces


# ---------------------------------------------------------------------------------------------------------------------
# The walk alone


def walk_in_pieces(loss: Tensor, bounds: Iterable[int] = ()) -> list[tuple[GraphNode, Tensor]]:
    handed = []
    with torch.no_grad():
        walk = TapeWalk([loss])
        walk.add(loss, torch.ones_like(loss))
        for bound in sorted(bounds, reverse=True):
            handed += list(walk.until(bound))
        handed += list(walk.finish())
    return handed


def by_leaf(leaves: list[Tensor], handed: list[tuple[GraphNode, Tensor]]) -> list[Tensor | None]:
    gradients = dict(handed)
    assert len(gradients) == len(handed), "each leaf is handed out once"
    assert gradients.keys() <= {leaf_node(leaf) for leaf in leaves}
    return [gradients.get(leaf_node(leaf)) for leaf in leaves]


STEPS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a * b,
    lambda a, b: a @ b,
    lambda a, b: (a.softmax(-1) + b).tanh(),
    lambda a, b: torch.cat([a, b])[2:6],
    lambda a, b: a + b[0],  # broadcast
    lambda a, b: a.bfloat16() * b.sum() + b,  # of two dtypes: the engine rounds the gradient to the input's
    lambda a, b: torch.stack([x + x.exp() * x for x in a.unbind(1)], 1) - b.detach(),  # sums of several inputs
    lambda a, b: a.sort(0).values + a.max(1, keepdim=True).values * b,  # outputs without a gradient
]


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    st.lists(st.integers(0, 12), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_random_graphs_walked_in_pieces_give_the_engines_bits(
    steps: list[tuple[int, int, int]], stops: list[int]
) -> None:
    """Also of leaves that are used several times, within a piece and across pieces."""
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.rand(4, 4, generator=generator).sub_(0.5).requires_grad_() for _ in range(3)]
    values: list[Tensor] = [*leaves]
    numbers = [sequence_now()]
    for kind, left, right in steps:
        values.append(STEPS[kind](values[left % len(values)], values[right % len(values)]))
        numbers.append(sequence_now())
    loss = (values[-1] * values[len(values) // 2]).sum()
    expected = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    bounds = [numbers[s % len(numbers)] for s in stops]
    for ours, theirs in zip(by_leaf(leaves, walk_in_pieces(loss, bounds)), expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or (torch.equal(ours, theirs) and ours.dtype == theirs.dtype)


def test_a_stop_runs_everything_made_after_it_and_nothing_before() -> None:
    early, late = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    middle = early.exp()
    bound = sequence_now()
    loss = (middle * late).sum()
    with torch.no_grad():
        walk = TapeWalk([loss])
        walk.add(loss, torch.ones_like(loss))
        first = list(walk.until(bound))
        second = list(walk.until(bound))
        rest = list(walk.finish())
    assert [node for node, _ in first] == [leaf_node(late)] and second == []
    assert [node for node, _ in rest] == [leaf_node(early)]
    assert torch.equal(rest[0][1], early.exp())


def test_a_leaf_is_handed_out_when_its_last_use_has_been_walked() -> None:
    """Not before, so that it is whole, and not later, so that it need not be kept."""
    twice, across, once = (torch.full((3,), v, requires_grad=True) for v in (0.1, 0.2, 0.3))
    early = (across * 2).exp()
    bound = sequence_now()
    loss = (early * (twice * 3 + twice * once) * across).sum()
    expected = torch.autograd.grad(loss, (twice, across, once), retain_graph=True)
    with torch.no_grad():
        walk = TapeWalk([loss])
        assert set(walk.leaves) == {leaf_node(leaf) for leaf in (twice, across, once)}
        walk.add(loss, torch.ones_like(loss))
        first, rest = list(walk.until(bound)), list(walk.finish())
    assert {node for node, _ in first} == {leaf_node(twice), leaf_node(once)} and len(first) == 2
    assert [node for node, _ in rest] == [leaf_node(across)]
    ours = by_leaf([twice, across, once], first + rest)
    assert all(torch.equal(o, e) for o, e in zip(ours, expected, strict=True) if o is not None)


class Half(torch.autograd.Function):
    """Passes a gradient on to its first input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


def test_a_use_through_which_no_gradient_comes_is_not_waited_for_for_ever() -> None:
    leaf, dead = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    loss = Half.apply(leaf * 2, leaf.exp() * dead).sum()
    ours, never = by_leaf([leaf, dead], walk_in_pieces(loss))
    assert ours is not None and ours.tolist() == [2.0] * 3
    assert never is None, "as the engine, which gives it none"


class Mixed(torch.autograd.Function):
    """A node that Python calls by `apply`: tensors among numbers, one without a gradient, an output without a user."""

    @staticmethod
    def forward(ctx: Any, scale: float, x: Tensor, word: str, fixed: Tensor, y: Tensor, none: None) -> Any:
        ctx.scale = scale
        return x * scale + fixed + y, x + 1, y * y

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor, third: Tensor) -> Any:
        assert (second == 0).all(), "the engine gives zeros for an output that nobody used"
        return None, first * ctx.scale + second, None, None, first * 5 + third, None


def test_nodes_written_in_python_are_walked() -> None:
    x, y = torch.arange(3.0, requires_grad=True), torch.ones(3, requires_grad=True)
    first, _, third = Mixed.apply(2.0, x * 3, "word", torch.zeros(3), y * 7, None)
    loss = (first * third).sum()
    expected = torch.autograd.grad(loss, (x, y), retain_graph=True)
    ours = by_leaf([x, y], walk_in_pieces(loss))
    assert all(s is not None and torch.equal(s, e) for s, e in zip(ours, expected, strict=True))


def test_sums_never_write_into_a_tensor_of_the_graph() -> None:
    """The gradient of an addition is one tensor for both sides: adding in place there would change the other's."""
    leaf = torch.ones(3, requires_grad=True)
    left, right = leaf * 2, leaf * 3
    seed = torch.ones(3)
    total = left + right + left + left
    with torch.no_grad():
        walk = TapeWalk([total])
        walk.add(total, seed)
        ((_, gradient),) = walk.finish()
    assert gradient.tolist() == [9.0] * 3 and seed.tolist() == [1.0] * 3


# ---------------------------------------------------------------------------------------------------------------------
# Attention
