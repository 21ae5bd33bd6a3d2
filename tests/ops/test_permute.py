"""Routing, dispatch and combine against a naive loop, against autograd, and in the router's order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.ops.permute import (
    Routing,
    make_routing,
    permute,
    permute_backward,
    unpermute,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import combine_backward
from torch import Tensor

EXPERTS = 5


@st.composite
def indices(draw: Any, highest: int = EXPERTS + 2) -> Tensor:
    """Any routing of T tokens to K choices, -1 and indices of no expert included; an expert may come twice."""
    tokens, choices = draw(st.integers(0, 9)), draw(st.integers(1, 4))
    values = draw(st.lists(st.integers(-1, highest), min_size=tokens * choices, max_size=tokens * choices))
    return torch.tensor(values, dtype=torch.int64).reshape(tokens, choices)


EXTREMES = [
    pytest.param(torch.full((6, 2), 3), id="one expert gets all"),
    pytest.param(torch.arange(6).remainder(2)[:, None], id="one choice, experts without tokens"),
    pytest.param(torch.full((4, 2), -1), id="no token has an expert"),
    pytest.param(torch.tensor([[-1, 2], [4, -1]]), id="half of the choices"),
    pytest.param(torch.empty(0, 2, dtype=torch.int64), id="no tokens"),
    pytest.param(torch.tensor([[7, 5], [0, 6], [6, 6]]), id="experts that return the token"),
    pytest.param(torch.randint(EXPERTS, (7, 3), generator=torch.Generator().manual_seed(1)), id="plain"),
]


def check_routing(index_TK: Tensor) -> None:
    routing = make_routing(index_TK, EXPERTS)
    expected = [
        (expert, token, choice)
        for expert in range(EXPERTS)
        for token, chosen in enumerate(index_TK.tolist())
        for choice, e in enumerate(chosen)
        if e == expert
    ]
    choices = index_TK.shape[1]
    assert routing.order_R.tolist() == [token * choices + choice for _, token, choice in expected]
    assert routing.counts_E.tolist() == [sum(e == expert for e, _, _ in expected) for expert in range(EXPERTS)]
    rows = {(token, choice): row for row, (_, token, choice) in enumerate(expected)}
    assert routing.position_TK.tolist() == [
        [rows.get((t, k), len(expected)) for k in range(choices)] for t in range(len(index_TK))
    ]
    assert routing.num_rows == len(expected) and routing.is_partial == (len(expected) < index_TK.numel())


@given(indices())
@settings(max_examples=150, deadline=None)
def test_slots_are_sorted_by_expert_then_token_then_choice(index_TK: Tensor) -> None:
    check_routing(index_TK)


@pytest.mark.parametrize("index_TK", EXTREMES)
def test_extreme_routings(index_TK: Tensor) -> None:
    check_routing(index_TK)


def test_int32_indices_serve_as_well() -> None:
    index_TK = torch.tensor([[1, 0], [-1, 4]])
    assert torch.equal(make_routing(index_TK.int(), EXPERTS).order_R, make_routing(index_TK, EXPERTS).order_R)


def naive(hidden_TH: Tensor, weights_TK: Tensor, matrices: Tensor, index_TK: Tensor, identity: bool) -> Tensor:
    """Expert e multiplies by `matrices[e]`; token by token, choice by choice."""
    rows = []
    for token, chosen in enumerate(index_TK.tolist()):
        total = torch.zeros_like(hidden_TH[token])
        for choice, expert in enumerate(chosen):
            if 0 <= expert < EXPERTS:
                total = total + weights_TK[token, choice] * (hidden_TH[token] @ matrices[expert])
            elif expert >= EXPERTS and identity:
                total = total + weights_TK[token, choice] * hidden_TH[token]
        rows.append(total)
    return hidden_TH * 0 + (torch.stack(rows) if rows else 0)  # a graph even where no token has an expert


def serve(rows_RH: Tensor, matrices: Tensor, routing: Routing) -> Tensor:
    blocks = rows_RH.split(routing.counts_E.tolist())
    return torch.cat([block @ matrix for block, matrix in zip(blocks, matrices, strict=True)])


def check_against_autograd(index_TK: Tensor, identity: bool) -> None:
    """In float64, where rounding is far below 1e-12."""
    generator = torch.Generator().manual_seed(index_TK.numel())
    hidden_TH, weights_TK, matrices, dout_TH = (
        torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
        for shape in ((len(index_TK), 4), tuple(index_TK.shape), (EXPERTS, 4, 4), (len(index_TK), 4))
    )
    routing = make_routing(index_TK, EXPERTS, identity)
    answers_RH = serve(permute(hidden_TH, routing), matrices, routing)
    out_TH = unpermute(answers_RH, hidden_TH, weights_TK, routing)
    danswers_RH, dweights_TK = combine_backward(dout_TH, answers_RH, hidden_TH, weights_TK, routing)
    drows_RH = serve(danswers_RH, matrices.mT, routing)
    dhidden_TH = permute_backward(drows_RH, dout_TH, weights_TK, routing)

    leaves = [t.clone().requires_grad_() for t in (hidden_TH, weights_TK)]
    expected_TH = naive(*leaves, matrices, index_TK, identity)
    gradients = torch.autograd.grad(expected_TH, leaves, dout_TH, allow_unused=True, materialize_grads=True)
    for ours, theirs in ((out_TH, expected_TH), (dhidden_TH, gradients[0]), (dweights_TK, gradients[1])):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("index_TK", EXTREMES)
def test_extreme_routings_agree_with_autograd(index_TK: Tensor, identity: bool) -> None:
    check_against_autograd(index_TK, identity)


@given(indices(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_values_and_gradients_agree_with_autograd(index_TK: Tensor, identity: bool) -> None:
    check_against_autograd(index_TK, identity)


def problem(dtype: torch.dtype, choices: int = 4) -> tuple[Routing, Tensor, Tensor, Tensor, Tensor]:
    """A routing with -1 and identity experts, and (answers, hidden, weights, drows) whose sums depend on the order."""
    generator = torch.Generator().manual_seed(3)
    index_TK = torch.randint(-1, EXPERTS + 2, (64, choices), generator=generator)
    routing = make_routing(index_TK, EXPERTS, has_identity=True)
    shapes = [(routing.num_rows, 8), (64, 8), (64, choices), (routing.num_rows, 8)]
    values = [
        (torch.randn(s, generator=generator) * 10 ** torch.randn(s, generator=generator)).to(dtype) for s in shapes
    ]
    return routing, *values


FORWARDS, BACKWARDS = (0, 1, 2, 3), (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("dtype", "wrong_order", "wrong_sums"),
    [(torch.float32, BACKWARDS, torch.float32), (torch.bfloat16, FORWARDS, torch.bfloat16)],
)
def test_additions_are_in_the_routers_order_bit_by_bit(
    dtype: torch.dtype, wrong_order: tuple[int, ...], wrong_sums: torch.dtype
) -> None:
    """A token's outputs, and its rows' gradients, are added choice 0, 1, 2, ..., in float32 even for bfloat16.

    The problem is unkind enough to show another order (float32) and sums in bfloat16.
    """
    routing, answers_RH, hidden_TH, weights_TK, drows_RH = problem(dtype)
    dout_TH = hidden_TH.flip(0)
    out_TH = unpermute(answers_RH, hidden_TH, weights_TK, routing)
    assert torch.equal(out_TH, added(routing, answers_RH, hidden_TH, weights_TK, weigh_rows=True))
    assert not torch.equal(out_TH, added(routing, answers_RH, hidden_TH, weights_TK, True, wrong_order, wrong_sums))
    dhidden_TH = permute_backward(drows_RH, dout_TH, weights_TK, routing)
    assert torch.equal(dhidden_TH, added(routing, drows_RH, dout_TH, weights_TK, weigh_rows=False))
    assert not torch.equal(dhidden_TH, added(routing, drows_RH, dout_TH, weights_TK, False, wrong_order, wrong_sums))


def added(
    routing: Routing,
    rows_RH: Tensor,
    own_TH: Tensor,
    weights_TK: Tensor,
    weigh_rows: bool,
    order: tuple[int, ...] = FORWARDS,
    sums: torch.dtype = torch.float32,
) -> Tensor:
    """The sum over a token's choices, one slot after the other."""
    total = torch.zeros(own_TH.shape, dtype=sums)
    assert routing.identity_TK is not None
    for token in range(routing.num_tokens):
        for choice in order:
            row, weight = int(routing.position_TK[token, choice]), weights_TK[token, choice]
            if routing.identity_TK[token, choice]:
                total[token] += own_TH[token] * weight
            elif row < routing.num_rows:
                total[token] += rows_RH[row] * weight if weigh_rows else rows_RH[row]
    return total.to(own_TH.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_of_results_are_those_of_the_inputs(dtype: torch.dtype) -> None:
    routing, answers_RH, hidden_TH, weights_TK, drows_RH = problem(dtype)
    weights_TK = weights_TK.float()  # routers often weigh in float32
    danswers_RH, dweights_TK = combine_backward(hidden_TH, answers_RH, hidden_TH, weights_TK, routing)
    assert unpermute(answers_RH, hidden_TH, weights_TK, routing).dtype == dtype
    assert (danswers_RH.dtype, dweights_TK.dtype) == (dtype, torch.float32)
    assert permute_backward(drows_RH, hidden_TH, weights_TK, routing).dtype == dtype
