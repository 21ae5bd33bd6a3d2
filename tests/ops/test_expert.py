"""One expert's arithmetic: the family's own code against the whole module, and the fast form against that code."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from dougong.launcher.job import Model
from dougong.models.build import build_on_meta, load_config
from dougong.models.sites import Site, expert_op, find_sites, one_expert
from dougong.ops.expert import ExpertOp, FamilyExpert, SwiGLUExpert, add_outer, choose_expert_op
from dougong.ops.routing import combine_rows, dispatch_rows, make_routing
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB

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


def run(op: ExpertOp, tensors: dict[str, Tensor], x_NH: Tensor, dy_NH: Tensor) -> dict[str, Tensor]:
    """Answer and all gradients; the gradients' accumulators begin at 1, to show that they are added to."""
    y_NH, dx_NH = torch.full_like(x_NH, float("nan")), torch.full_like(x_NH, float("nan"))
    grads = {n: torch.ones(t.shape) for n, t in tensors.items()}
    op.backward(dy_NH, op.forward(x_NH, tensors, y_NH), tensors, grads, dx_NH)
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
    rows_RH = dispatch_rows(hidden_TH, routing)
    answers_RH = torch.empty_like(rows_RH)
    start = 0
    for expert, count in enumerate(routing.counts_E.tolist()):
        tensors = {n: getattr(whole, n)[expert].detach() for n in site.shapes}
        span = slice(start, start + count)
        saved = op.forward(rows_RH[span], tensors, answers_RH[span])
        grads = {n: torch.zeros_like(t) for n, t in tensors.items()}
        weight_R = weights_TK.reshape(-1)[routing.order_R[span]]
        drow_RH = dispatch_rows(dout_TH, routing)[span] * weight_R[:, None]
        op.backward(drow_RH, saved, tensors, grads, torch.empty_like(drow_RH))
        for name, grad in grads.items():
            torch.testing.assert_close(grad, getattr(whole, name).grad[expert], rtol=1e-4, atol=1e-5)
        start += count
    ours = combine_rows(answers_RH, hidden_TH, weights_TK, routing)
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
    assert type(expert_op(site_of(family), CPU)) is expected


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_pytorch_tanh"])
def test_another_activation_is_computed_by_the_familys_own_code(activation: str) -> None:
    config = config_values("qwen3_moe", hidden_act=activation)
    site = find_sites(build_on_meta(load_config(Model(family="qwen3_moe", config=config), VOCAB)))[0]
    assert type(expert_op(site, CPU)) is FamilyExpert


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
    assert choose_expert_op(other, shapes, CPU) is other


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "longcat_flash"])
@pytest.mark.parametrize("fast", [False, True])
def test_weight_gradients_are_added_and_answers_overwritten(family: str, fast: bool) -> None:
    op = expert_op(site_of(family), CPU) if fast else family_op(family)
    tensors, x_NH, dy_NH = random_tensors(family, 3), random_rows(1), random_rows(2)
    once = run(op, tensors, x_NH, dy_NH)
    twice = {n: torch.zeros(t.shape) for n, t in tensors.items()}
    for _ in range(2):
        out, dx = torch.empty_like(x_NH), torch.empty_like(x_NH)
        op.backward(dy_NH, op.forward(x_NH, tensors, out), tensors, twice, dx)
    assert torch.equal(dx, once["dx"]) and torch.equal(out, once["y"])
    for name, total in twice.items():
        torch.testing.assert_close(total, 2 * once[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outer_products_are_summed_into_float32(dtype: torch.dtype) -> None:
    left_NA, right_NB = random_rows(1, 5, dtype)[:, :3], random_rows(2, 5, dtype)[:, :4]
    total = torch.ones(3, 4)
    add_outer(total, left_NA, right_NB)
    expected = 1 + sum(torch.outer(a, b) for a, b in zip(left_NA.double(), right_NB.double(), strict=True))
    tolerance = 1e-6 if dtype == torch.float32 else 0.02  # the product of bfloat16 is rounded to bfloat16 before
    torch.testing.assert_close(total.double(), expected, rtol=tolerance, atol=tolerance)
