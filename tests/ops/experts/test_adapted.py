"""Experts with adapters and frozen weights: what autograd makes of the definition, whichever form is inside."""

from __future__ import annotations

import pytest
import torch
from dougong.ops.experts.adapted import AdaptedExperts, Adapter, PartlyFrozen
from dougong.ops.experts.base import Block, ExpertOp
from dougong.ops.experts.reference import ByBlock, ByTile, SwiGLUExpert, TiledSwiGLU
from torch import Tensor

HIDDEN, INNER, RANK = 8, 16, 3
FORMS: list[ExpertOp] = [ByBlock(SwiGLUExpert()), ByTile(SwiGLUExpert(), 8), TiledSwiGLU(8)]
BLOCKS = [Block(1, 0, 0, 3), Block(4, 0, 3, 5), Block(1, 1, 8, 2)]
Experts = dict[int, dict[str, Tensor]]


def weights(expert: int, adapted: tuple[str, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(expert)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    found = {"gate_up_proj": made(2 * INNER, HIDDEN), "down_proj": made(HIDDEN, INNER)}
    for name in adapted:
        size_out, size_in = found[name].shape
        found |= {f"{name}_lora_A": made(RANK, size_in), f"{name}_lora_B": made(size_out, RANK)}
    return found


def zeros(experts: Experts, names: set[str]) -> Experts:
    return {e: {n: torch.zeros_like(t) for n, t in own.items() if n in names} for e, own in experts.items()}


def by_autograd(experts: Experts, rows: Tensor, douts: Tensor, scaling: float) -> tuple[Tensor, Tensor, Experts]:
    """Outputs, the rows' gradients and those of all tensors, in float64."""
    leaves = {e: {n: t.double().requires_grad_() for n, t in own.items()} for e, own in experts.items()}
    rows = rows.double().requires_grad_()
    outs = []
    for block in BLOCKS:
        own = dict(leaves[block.expert])
        for name in ("gate_up_proj", "down_proj"):
            if f"{name}_lora_A" in own:
                own[name] = own[name] + scaling * own[f"{name}_lora_B"] @ own[f"{name}_lora_A"]
        gate, up = (rows[block.span] @ own["gate_up_proj"].t()).chunk(2, -1)
        outs.append((torch.nn.functional.silu(gate) * up) @ own["down_proj"].t())
    out = torch.cat(outs)
    out.backward(douts.double())
    return out.detach(), rows.grad, {e: {n: t.grad for n, t in own.items()} for e, own in leaves.items()}  # type: ignore[return-value,misc]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
@pytest.mark.parametrize("adapted", [("gate_up_proj", "down_proj"), ("gate_up_proj",), ("down_proj",)])
def test_outputs_and_gradients_are_those_of_the_definition(form: ExpertOp, adapted: tuple[str, ...]) -> None:
    experts = {e: weights(e, adapted) for e in (1, 4, 6)}
    rows, douts = torch.randn(10, HIDDEN), torch.randn(10, HIDDEN)
    op, outs, drows, again = AdaptedExperts(form, Adapter(0.5)), *(torch.empty(10, HIDDEN) for _ in range(3))
    saved = op.forward(rows, BLOCKS, experts, outs)
    halves = {name for name in experts[1] if "lora" in name}
    grads = zeros(experts, halves)
    op.backward(douts, saved, experts, grads, drows, again)()
    expected, drows_expected, all_expected = by_autograd(experts, rows, douts, 0.5)
    assert torch.equal(outs, again)
    torch.testing.assert_close(outs, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drows, drows_expected.float(), rtol=1e-4, atol=1e-3)
    for expert in (1, 4):
        for name in halves:
            torch.testing.assert_close(grads[expert][name], all_expected[expert][name].float(), rtol=1e-4, atol=1e-3)
    assert not any(tensor.any() for tensor in grads[6].values())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_outputs_are_those_of_merged_weights_bit_by_bit(form: ExpertOp) -> None:
    experts = {e: weights(e, ("gate_up_proj", "down_proj")) for e in (1, 4)}
    adapter = Adapter(2.0)
    merged: Experts = {}
    for expert, own in experts.items():
        merged[expert] = {
            n: adapter.merged(own[n], own[f"{n}_lora_A"], own[f"{n}_lora_B"]) for n in ("gate_up_proj", "down_proj")
        }
    rows, outs, plain = torch.randn(10, HIDDEN), torch.empty(10, HIDDEN), torch.empty(10, HIDDEN)
    AdaptedExperts(form, adapter).forward(rows, BLOCKS, experts, outs)
    form.forward(rows, BLOCKS, merged, plain)
    assert torch.equal(outs, plain)


def test_a_matrix_may_lie_transposed_and_is_rounded_once() -> None:
    own = weights(1, ("down_proj",))
    a, b = own["down_proj_lora_A"], own["down_proj_lora_B"]
    there, turned = Adapter(0.5), Adapter(0.5, is_transposed=True)
    torch.testing.assert_close(turned.merged(own["down_proj"].t(), a, b), there.merged(own["down_proj"], a, b).t())
    half = own["down_proj"].bfloat16()
    assert torch.equal(there.merged(half, a, b), there.merged(half.float(), a, b).bfloat16())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
@pytest.mark.parametrize("trained", [set(), {"down_proj"}, {"gate_up_proj"}], ids=str)
def test_frozen_weights_change_no_bit_of_the_rest(form: ExpertOp, trained: set[str]) -> None:
    experts = {e: weights(e, ()) for e in (1, 4, 6)}
    rows, douts = torch.randn(10, HIDDEN), torch.randn(10, HIDDEN)
    outs, drows, whole_outs, whole_drows = (torch.empty(10, HIDDEN) for _ in range(4))
    grads, whole = zeros(experts, trained), zeros(experts, {"gate_up_proj", "down_proj"})
    frozen = PartlyFrozen(form)
    frozen.backward(douts, frozen.forward(rows, BLOCKS, experts, outs), experts, grads, drows)()
    form.backward(douts, form.forward(rows, BLOCKS, experts, whole_outs), experts, whole, whole_drows)()
    assert torch.equal(outs, whole_outs) and torch.equal(drows, whole_drows)
    for expert, own in grads.items():
        assert own.keys() == trained and all(torch.equal(own[name], whole[expert][name]) for name in own)
