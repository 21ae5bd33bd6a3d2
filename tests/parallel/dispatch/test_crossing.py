"""Crossing: tokens cross once for each worker, and whatever the layout, all comes out as on one worker."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, combinations
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from dougong.ops.experts.base import Block
from dougong.ops.permute import permute
from dougong.parallel.dispatch import crossing as ops
from dougong.parallel.dispatch.crossing import Combine, CrossingPlan, ExpertHolders, LaneCounts, plan_crossings
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parallel.dispatch.crossing import H, Problem, Site, differing, make_problem, on_one_worker
from tests.parallel.dispatch.traffic import Traffic, Widths, bytes_of
from torch import Tensor

COMBINES: tuple[Combine, ...] = ("at_attention", "at_experts")


@st.composite
def problems(draw: Any) -> Problem:
    """Any routing: -1, identity, an expert twice, lanes and workers without tokens; 1 to 6 workers, some empty."""
    num_experts = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=6).filter(any)))
    choices = draw(st.integers(1, 4))
    highest = sum(num_experts) + 1
    lowest = draw(st.sampled_from([-1, 0]))
    indices = []
    for _ in range(draw(st.integers(1, 3))):
        tokens = draw(st.integers(0, 6))
        drawn = draw(st.lists(st.integers(lowest, highest), min_size=tokens * choices, max_size=tokens * choices))
        indices.append(torch.tensor(drawn, dtype=torch.int64).reshape(tokens, choices))
    return make_problem(num_experts, indices, draw(st.booleans()))


def plan_of(index_TK: Tensor, num_experts: tuple[int, ...], identity: bool = False) -> CrossingPlan:
    (plan,) = plan_crossings([index_TK], ExpertHolders.of(num_experts, torch.device("cpu")), identity)
    return plan


def distinct(tokens: int, choices: int, num_experts: int, seed: int) -> Tensor:
    """A plain router's choices: no expert twice."""
    return torch.rand(tokens, num_experts, generator=torch.Generator().manual_seed(seed)).topk(choices).indices


PLAIN = make_problem((2, 3, 1, 2), [distinct(40, 4, 8, seed) for seed in range(3)])
EXTREMES = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(make_problem((2, 1, 3), [torch.full((6, 2), 2)]), id="one expert gets all, twice"),
    pytest.param(make_problem((1, 1, 2), [torch.arange(6).remainder(2)[:, None]]), id="k = 1, a worker gets none"),
    pytest.param(make_problem((2, 2), [torch.full((4, 2), -1), torch.full((1, 2), 3)]), id="a lane without rows"),
    pytest.param(make_problem((2, 2), [torch.empty(0, 2, dtype=torch.int64)]), id="no tokens"),
    pytest.param(make_problem((0, 3, 0), [torch.tensor([[7, 2], [0, 3]])], identity=True), id="empty workers"),
    pytest.param(make_problem((2, 2), [torch.tensor([[0, 4, 1], [4, 5, 3]])], identity=True), id="identity between"),
]


# ---------------------------------------------------------------------------------------------------------------------
# What crosses


def check_what_crosses(problem: Problem) -> None:
    """Against a plain walk over tokens and choices."""
    firsts = [0, *accumulate(problem.num_experts)]
    for index_TK, hidden_TH, *_ in problem.lanes:
        num_choices = index_TK.shape[1]
        plan = plan_of(index_TK, problem.num_experts, problem.identity)
        slots, tokens = plan.split_rows(plan.slots_R), ops.pack_tokens(hidden_TH, plan)
        assert len(slots) == len(tokens) == len(plan.tokens_D) == len(plan.rows_D) == len(problem.num_experts)
        for worker in range(len(problem.num_experts)):
            own = range(firsts[worker], firsts[worker + 1])
            unique = [t for t, chosen in enumerate(index_TK.tolist()) if set(chosen) & set(own)]
            rows = [
                [(unique.index(t), k) for t in unique for k in range(num_choices) if index_TK[t, k] == e] for e in own
            ]
            counts = [len(of) for of in rows]
            assert plan.routing.counts_E[own.start : own.stop].tolist() == counts
            assert (plan.tokens_D[worker], plan.rows_D[worker]) == (len(unique), sum(counts))
            assert slots[worker].tolist() == [u * num_choices + k for of in rows for u, k in of]
            assert slots[worker].dtype == torch.int32
            assert torch.equal(tokens[worker], hidden_TH[unique])


@pytest.mark.parametrize("problem", EXTREMES)
def test_a_token_crosses_once_for_each_worker(problem: Problem) -> None:
    check_what_crosses(problem)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_a_token_of_any_routing_crosses_once_for_each_worker(problem: Problem) -> None:
    check_what_crosses(problem)


def test_blocks_lie_by_lane_then_expert_and_none_is_empty() -> None:
    counts = LaneCounts(np.array([3, 0, 1]), np.array([[2, 0, 3], [0, 0, 0], [0, 1, 0]]), 2)
    assert ops.blocks_of(counts, (4, 5, 6), (7, 8, 9)) == (Block(7, 4, 0, 2), Block(9, 4, 2, 3), Block(8, 6, 5, 1))


def test_lanes_without_a_micro_batch_take_no_place() -> None:
    index_TK = torch.tensor([[1, 2], [0, 1]])
    plan, nothing = plan_of(index_TK, (3,)), [0, 0, 0]
    rows = np.array([nothing, plan.routing.counts_E.tolist(), nothing])
    opened = ops.routing_of_arrivals(LaneCounts(np.array([0, *plan.tokens_D, 0]), rows, 2), plan.slots_R)
    assert opened.order_R.tolist() == plan.routing.order_R.tolist()
    assert opened.position_TK.tolist() == plan.routing.position_TK.tolist()
    empty = ops.routing_of_arrivals(LaneCounts(np.array([0]), np.array([nothing]), 1), plan.slots_R[:0])
    assert permute(torch.empty(0, H), empty).shape == (0, H)
    assert ops.add_outputs(torch.empty(0, H), torch.empty(0), empty).shape == (0, H)


# ---------------------------------------------------------------------------------------------------------------------
# Bits


@pytest.mark.parametrize(
    ("dtype", "weight_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)],
)
@pytest.mark.parametrize("problem", EXTREMES)
def test_at_attention_has_the_bits_of_one_worker(
    problem: Problem, dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    problem = problem.to(dtype, weight_dtype)
    assert not differing(Site(problem, "at_attention").run(), on_one_worker(problem))


@given(problems(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_at_attention_has_the_bits_of_one_worker_for_any_routing(problem: Problem, half: bool) -> None:
    problem = problem.to(torch.bfloat16 if half else torch.float32)
    assert not differing(Site(problem, "at_attention").run(), on_one_worker(problem))


def check_at_experts(problem: Problem) -> None:
    """Exact to float64's rounding in float64; the same again and again; weights' gradients with the usual bits."""
    exact = problem.to(torch.float64)
    scale = 1 + max((t.abs().max().item() for of in on_one_worker(exact) for t in of if t.numel()), default=0.0)
    for ours, theirs in zip(Site(exact, "at_experts").run(), on_one_worker(exact), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13 * scale)
    once = Site(problem, "at_experts").run()
    for ours, theirs in zip(once, on_one_worker(exact), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * scale)
    assert not differing(Site(problem, "at_experts").run(), once)
    assert not [name for name in differing(once, on_one_worker(problem)) if "weights" in name]


@pytest.mark.parametrize("problem", EXTREMES)
def test_at_experts_agrees_to_rounding(problem: Problem) -> None:
    check_at_experts(problem)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_at_experts_agrees_to_rounding_for_any_routing(problem: Problem) -> None:
    check_at_experts(problem)


def test_at_experts_in_half_precision_adds_in_float32() -> None:
    """A thousand outputs of 1 + 2^-7, of which bfloat16 sums lose most: here the partial sums are exact."""
    rows_RH = torch.full((1000, H), 1 + 2**-7, dtype=torch.bfloat16)
    counts = LaneCounts(np.array([1]), np.array([[1000]]), 1000)
    arrived = ops.routing_of_arrivals(counts, torch.arange(1000, dtype=torch.int32))
    sums = ops.add_outputs(rows_RH, torch.ones(1000, dtype=torch.bfloat16), arrived)
    assert sums.dtype == torch.bfloat16 and sums.shape == (1, H)
    assert torch.equal(sums, torch.full((1, H), 1000 * (1 + 2**-7)).bfloat16())
    assert torch.equal(sums, ops.add_gradients(rows_RH, arrived))


def test_at_experts_depends_on_who_shares_a_worker_alone() -> None:
    """Workers in another order, with their experts: the same bits. Experts shared otherwise: not these bits."""
    owners = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    of_worker = [(owners == d).nonzero().flatten().tolist() for d in (2, 0, 3, 1)]
    order = [expert for experts in of_worker for expert in experts]
    renamed = torch.tensor([order.index(expert) for expert in range(8)])
    moved = replace(
        PLAIN,
        num_experts=tuple(len(experts) for experts in of_worker),
        matrices=PLAIN.matrices[order],
        lanes=tuple((renamed[index], *rest) for index, *rest in PLAIN.lanes),
    )
    assert not differing(Site(moved, "at_experts").run(), Site(PLAIN, "at_experts").run())
    shared = replace(PLAIN, num_experts=(3, 2, 1, 2))
    assert len(differing(Site(shared, "at_experts").run(), Site(PLAIN, "at_experts").run())) == 6
    assert len(differing(Site(PLAIN, "at_experts").run(), on_one_worker(PLAIN))) == 6


@pytest.mark.parametrize("num_experts", [(8,), (1,) * 8], ids=["one worker", "a worker for each expert"])
def test_at_experts_has_the_usual_bits_where_no_worker_or_only_one_is_shared(num_experts: tuple[int, ...]) -> None:
    problem = replace(PLAIN, num_experts=num_experts)
    assert not differing(Site(problem, "at_experts").run(), on_one_worker(problem))


# ---------------------------------------------------------------------------------------------------------------------
# Bytes


def check_bytes(problem: Problem, dtype: torch.dtype, weight_dtype: torch.dtype, combine: Combine) -> None:
    problem = problem.to(dtype, weight_dtype)
    site = Site(problem, combine)
    site.run()
    expected = Traffic(0, 0, 0, 0, 0)
    for plan in site.plans:
        of_workers = plan.routing.counts_E.split(list(problem.num_experts))
        for num_tokens, counts in zip(plan.tokens_D, of_workers, strict=True):
            expected += bytes_of(num_tokens, counts.tolist(), Widths(H, dtype, weight_dtype), combine)
    assert Traffic(**site.wire.sent) == expected


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("problem", EXTREMES)
def test_what_crosses_has_the_bytes_of_the_formula(problem: Problem, combine: Combine) -> None:
    check_bytes(problem, torch.bfloat16, torch.float32, combine)


@given(problems(), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), st.sampled_from(COMBINES))
@settings(max_examples=60, deadline=None)
def test_any_routing_has_the_bytes_of_the_formula(problem: Problem, dtype: torch.dtype, combine: Combine) -> None:
    check_bytes(problem, dtype, dtype, combine)


def test_the_formula_in_numbers() -> None:
    """U = 3 tokens, R = 5 rows, H = 10, bfloat16 vectors of 20 bytes, float32 weights; two experts."""
    widths = Widths(10, torch.bfloat16, torch.float32)
    assert bytes_of(3, (1, 4), widths, "at_attention") == Traffic(24, 60 + 20, 100, 60 + 20, 100 + 20)
    assert bytes_of(3, (1, 4), widths, "at_experts") == Traffic(24, 60 + 20 + 20, 60, 60, 60 + 20)


@pytest.mark.parametrize(("num_experts", "workers", "choices"), [(8, 4, 3), (8, 2, 1), (6, 3, 6), (9, 3, 4)])
def test_tokens_cross_as_often_as_expected_of_a_uniform_router(num_experts: int, workers: int, choices: int) -> None:
    """Of every set of k experts once: a token goes to U = G * (1 - C(E - E/G, k) / C(E, k)) of G workers on average.

    `docs/design/dispatch-and-combine.md` says what goes once for a worker and what once for an expert.
    """
    index_TK = torch.tensor(list(combinations(range(num_experts), choices)))
    plan = plan_of(index_TK, (num_experts // workers,) * workers)
    sets, away = comb(num_experts, choices), comb(num_experts - num_experts // workers, choices)
    assert sum(plan.tokens_D) == workers * (sets - away)
    assert sum(plan.rows_D) == sets * choices


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6))
@settings(deadline=None)
def test_the_first_choice_of_a_token_at_each_worker_is_found(workers: list[list[int]]) -> None:
    found = ops.first_choices(torch.tensor(workers))
    assert found.tolist() == [[of_token.index(worker) for worker in of_token] for of_token in workers]
