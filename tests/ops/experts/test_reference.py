"""One expert's arithmetic: the family's own code against the whole module, and the fast form against that code."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.sites import Site, expert_op, find_sites, one_expert
from dougong.ops.experts.base import Block, ExpertOp, OneExpert, Rows
from dougong.ops.experts.choose import choose_expert_op
from dougong.ops.experts.reference import ByBlock, FamilyExpert, SwiGLUExpert, Tiling, add_outer
from dougong.ops.permute import make_routing, permute, unpermute
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB
from torch import Tensor

CPU = torch.device("cpu")
SWIGLU = [f for f in FAMILIES if f != "gpt_oss"]
HIDDEN, ROWS = 64, 13


@functools.cache
def site_of(family: str) -> Site:
    config = load_config(Model(family=family, config=config_values(family)), VOCAB)
    config._experts_implementation = "eager"
    return find_sites(build_on_meta(config))[-1]


def family_op(family: str) -> FamilyExpert:
    site = site_of(family)
    return FamilyExpert(lambda tensors: one_expert(site, tensors), site.has_identity_experts)


def random_tensors(family: str, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).mul_(0.2).to(dtype) for n, s in site_of(family).shapes.items()}


def random_rows(seed: int, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed)).to(dtype)


def one_of(op: ExpertOp) -> OneExpert:
    """How an operator on whole blocks computes one of them."""
    assert isinstance(op, ByBlock)
    return op.one


def run(op: OneExpert, tensors: dict[str, Tensor], x_NH: Tensor, dy_NH: Tensor) -> dict[str, Tensor]:
    """Answer and all gradients; the gradients' accumulators begin at 1, to show that they are added to."""
    y_NH, dx_NH = torch.full_like(x_NH, float("nan")), torch.full_like(x_NH, float("nan"))
    grads = {n: torch.ones(t.shape) for n, t in tensors.items()}
    op.backward(dy_NH, op.forward(x_NH, tensors, y_NH), tensors, grads, dx_NH)()
    return {"y": y_NH, "dx": dx_NH, **{n: g - 1.0 for n, g in grads.items()}}


def relative_errors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference over the largest value, per tensor."""
    return {n: float((ours[n] - t).abs().max() / t.abs().max()) for n, t in theirs.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_expert_at_a_time_gives_what_the_whole_module_gives(family: str) -> None:
    """Values and every gradient, against transformers' eager experts: 2e-6 of the largest value, because only the
    order of float32 additions differs (rounding 6e-8, sums of up to 64 terms). longcat_flash's last four experts
    return the token."""
    site = site_of(family)
    op = family_op(family)
    generator = torch.Generator().manual_seed(5)
    index_TK = torch.randint(12 if site.has_identity_experts else 8, (ROWS, 2), generator=generator)
    index_TK[:, 1] = (index_TK[:, 0] + 1 + index_TK[:, 1] % 5) % (12 if site.has_identity_experts else 8)
    weights_TK = torch.rand(ROWS, 2, generator=generator)
    hidden_TH, dout_TH = random_rows(1), random_rows(2)

    whole: Any = one_expert(site, {})
    for name, rows in site.num_rows.items():
        values = torch.randn(rows, *site.shapes[name], generator=generator).mul_(0.2)
        whole._parameters[name] = torch.nn.Parameter(values)
    for name in [n for n in vars(site.module) if n.startswith("num_")]:
        setattr(whole, name, getattr(site.module, name))
    leaf_TH = hidden_TH.clone().requires_grad_()
    whole_TH = whole(leaf_TH, index_TK, weights_TK)
    whole_TH.backward(dout_TH)

    routing = make_routing(index_TK, 8, site.has_identity_experts)
    rows_RH = permute(hidden_TH, routing)
    answers_RH = torch.empty_like(rows_RH)
    start = 0
    for expert, count in enumerate(routing.counts_E.tolist()):
        tensors = {n: getattr(whole, n)[expert].detach() for n in site.shapes}
        span = slice(start, start + count)
        saved = op.forward(rows_RH[span], tensors, answers_RH[span])
        grads = {n: torch.zeros_like(t) for n, t in tensors.items()}
        weight_R = weights_TK.reshape(-1)[routing.order_R[span]]
        drow_RH = permute(dout_TH, routing)[span] * weight_R[:, None]
        op.backward(drow_RH, saved, tensors, grads, torch.empty_like(drow_RH))()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, getattr(whole, name).grad[expert], rtol=1e-4, atol=1e-5)
        start += count
    ours = unpermute(answers_RH, hidden_TH, weights_TK, routing)
    assert relative_errors({"y": ours}, {"y": whole_TH.detach()})["y"] < 2e-6


@pytest.mark.parametrize("family", SWIGLU)
def test_fast_form_agrees_with_the_familys_own_code(family: str) -> None:
    """Largest error 1e-6 of a tensor's largest value: the products are the same, silu's gradient is rounded apart."""
    tensors, x_NH, dy_NH = random_tensors(family, 3), random_rows(1), random_rows(2)
    errors = relative_errors(run(SwiGLUExpert(), tensors, x_NH, dy_NH), run(family_op(family), tensors, x_NH, dy_NH))
    assert errors.keys() == {"y", "dx", "gate_up_proj", "down_proj"}
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("family", SWIGLU)
def test_fast_form_agrees_in_bfloat16(family: str) -> None:
    """bfloat16 keeps 8 bits: 2 % of a tensor's largest value covers a few roundings at other places."""
    values = random_tensors(family, 3, torch.bfloat16), random_rows(1, dtype=torch.bfloat16), random_rows(2).bfloat16()
    fast, own = run(SwiGLUExpert(), *values), run(family_op(family), *values)
    assert fast["gate_up_proj"].dtype == torch.float32 and fast["dx"].dtype == torch.bfloat16
    assert max(relative_errors(fast, own).values()) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fast_form_is_chosen_where_it_computes_the_same(family: str) -> None:
    expected = SwiGLUExpert if family in SWIGLU else FamilyExpert
    assert type(one_of(expert_op(site_of(family), CPU))) is expected


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_pytorch_tanh"])
def test_another_activation_is_computed_by_the_familys_own_code(activation: str) -> None:
    config = config_values("qwen3_moe", hidden_act=activation)
    site = find_sites(build_on_meta(load_config(Model(family="qwen3_moe", config=config), VOCAB)))[0]
    assert type(one_of(expert_op(site, CPU))) is FamilyExpert


class Swapped(FamilyExpert):
    """The shapes of SwiGLU, but up before gate."""

    def __init__(self) -> None:
        super().__init__(lambda tensors: torch.nn.Identity(), False)

    def _run(self, x_NH: Tensor, tensors: Any) -> Tensor:
        up_NI, gate_NI = (x_NH @ tensors["gate_up_proj"].t()).chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate_NI) * up_NI) @ tensors["down_proj"].t()


@pytest.mark.parametrize(
    "shapes",
    [
        {"gate_up_proj": (32, 8), "down_proj": (8, 16)},  # right, yet the arithmetic is not
        {"gate_up_proj": (8, 32), "down_proj": (16, 8)},  # transposed, as gpt_oss
        {"gate_up_proj": (32, 8), "down_proj": (8, 32)},
        {"gate_up_proj": (32, 8), "down_proj": (8, 16), "bias": (8,)},
        {"up_proj": (16, 8), "down_proj": (8, 16)},
    ],
)
def test_arithmetic_is_compared_not_shapes_alone(shapes: dict[str, tuple[int, ...]]) -> None:
    other = Swapped()
    assert one_of(choose_expert_op(other, shapes, CPU)) is other


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "longcat_flash"])
@pytest.mark.parametrize("fast", [False, True])
def test_weight_gradients_are_added_and_answers_overwritten(family: str, fast: bool) -> None:
    op = one_of(expert_op(site_of(family), CPU)) if fast else family_op(family)
    tensors, x_NH, dy_NH = random_tensors(family, 3), random_rows(1), random_rows(2)
    once = run(op, tensors, x_NH, dy_NH)
    twice = {n: torch.zeros(t.shape) for n, t in tensors.items()}
    for _ in range(2):
        out, dx = torch.empty_like(x_NH), torch.empty_like(x_NH)
        op.backward(dy_NH, op.forward(x_NH, tensors, out), tensors, twice, dx)()
    assert torch.equal(dx, once["dx"]) and torch.equal(out, once["y"])
    for name, total in twice.items():
        torch.testing.assert_close(total, 2 * once[name], rtol=1e-4, atol=1e-4)


COUNTS = {(0, 1): 3, (0, 4): 21, (1, 1): 30, (1, 2): 1, (3, 4): 16, (3, 5): 7}
"""Rows by (lane, expert): some experts serve one lane, some two; some fill their tiles, some do not."""


def wave(lanes: Collection[int] = range(4)) -> list[Block]:
    starts = itertools.accumulate(COUNTS.values(), initial=0)
    blocks = [Block(e, lane, start, n) for ((lane, e), n), start in zip(COUNTS.items(), starts, strict=False)]
    return [b for b in blocks if b.lane in lanes]


def run_wave(
    op: ExpertOp, family: str, blocks: Sequence[Block], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Answers, gradients of rows, gradients of every expert's weights, for blocks out of one wave."""
    x_RH, dy_RH = random_rows(1, sum(COUNTS.values()), dtype), random_rows(2, sum(COUNTS.values()), dtype)
    kept, start = [], 0
    for block in blocks:  # as a wave of its own, if not all blocks are there
        kept.append(dataclasses.replace(block, start=start))
        start += block.count
    rows = torch.cat([torch.arange(b.start, b.start + b.count) for b in blocks])
    x_RH, dy_RH = x_RH.index_select(0, rows), dy_RH.index_select(0, rows)
    tensors = {e: random_tensors(family, e, dtype) for e in range(6)}
    grads = {e: {n: torch.zeros(t.shape) for n, t in of.items()} for e, of in tensors.items()}
    y_RH, dx_RH = torch.full_like(x_RH, float("nan")), torch.full_like(x_RH, float("nan"))
    saved = op.forward(x_RH, kept, tensors, y_RH)
    op.backward(dy_RH, saved, tensors, grads, dx_RH)()
    results = {f"y of {b.lane}, {b.expert}": y_RH[k.span] for b, k in zip(blocks, kept, strict=True)}
    results |= {f"dx of {b.lane}, {b.expert}": dx_RH[k.span] for b, k in zip(blocks, kept, strict=True)}
    return results | {f"{n} of {e}": g for e, of in grads.items() for n, g in of.items()}


ROWS_OF_PRODUCTS: list[Rows] = ["block", "expert", 16, 32]


@pytest.mark.parametrize("rows", ROWS_OF_PRODUCTS[1:], ids=str)
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "longcat_flash"])
def test_every_form_computes_the_same_to_rounding(family: str, rows: Rows) -> None:
    theirs = run_wave(expert_op(site_of(family), CPU), family, wave())
    errors = relative_errors(run_wave(expert_op(site_of(family), CPU, rows), family, wave()), theirs)
    assert max(e for n, e in errors.items() if bool(theirs[n].any())) < 2e-6, errors


@pytest.mark.parametrize("rows", ROWS_OF_PRODUCTS, ids=str)
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_the_experts_that_a_worker_owns_change_no_bit(family: str, rows: Rows) -> None:
    """Another layout gives a worker other experts, each with the rows of all lanes."""
    op = expert_op(site_of(family), CPU, rows)
    together = run_wave(op, family, wave())
    apart: dict[str, Tensor] = {}
    for experts in ((1,), (2, 5), (4,)):
        part = run_wave(op, family, [b for b in wave() if b.expert in experts])
        apart |= {n: t for n, t in part.items() if int(n[-1]) in experts}
    assert apart and all(torch.equal(t, together[n]) for n, t in apart.items())


@pytest.mark.parametrize("rows", [16, 32], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_tiles_a_rows_bits_do_not_depend_on_the_lanes_beside_it(dtype: torch.dtype, rows: int) -> None:
    """Forward and gradient of rows; the weights' gradient is a sum over all lanes, and so are its products."""
    op = expert_op(site_of("qwen3_moe"), CPU, rows)
    together = run_wave(op, "qwen3_moe", wave(), dtype)
    alone = run_wave(op, "qwen3_moe", wave({1, 3}), dtype)
    compared = [n for n in alone if n.startswith(("y", "dx"))]
    assert len(compared) == 8 and all(torch.equal(alone[n], together[n]) for n in compared)


def test_tiles_hold_one_expert_lane_by_lane_and_are_filled_up() -> None:
    tiling = Tiling(wave(), 16)
    assert tiling.spans == [(1, slice(0, 48)), (2, slice(48, 64)), (4, slice(64, 112)), (5, slice(112, 128))]
    assert [t for _, t in tiling.tiles()] == [slice(i, i + 16) for i in range(0, 128, 16)]
    rows = torch.arange(float(sum(COUNTS.values())))[:, None] + 1
    padded = tiling.pad(rows)
    assert padded[:33, 0].tolist() == [1, 2, 3, *range(25, 55)] and not padded[33:48].any()
    back = torch.empty_like(rows)
    tiling.unpad(padded, back)
    assert torch.equal(back, rows)
    nothing = Tiling([], 16)
    assert nothing.num_rows == 0 and nothing.pad(rows[:0]).shape == (0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outer_products_are_summed_into_float32(dtype: torch.dtype) -> None:
    left_NA, right_NB = random_rows(1, 5, dtype)[:, :3], random_rows(2, 5, dtype)[:, :4]
    total = torch.ones(3, 4)
    add_outer(total, left_NA, right_NB)
    expected = 1 + sum(torch.outer(a, b) for a, b in zip(left_NA.double(), right_NB.double(), strict=True))
    tolerance = 1e-6 if dtype == torch.float32 else 0.02  # the product of bfloat16 is rounded to bfloat16 before
    torch.testing.assert_close(total.double(), expected, rtol=tolerance, atol=tolerance)
