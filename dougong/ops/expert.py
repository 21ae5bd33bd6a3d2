"""One expert on one block of rows: forward and backward, with the weight gradients added into float32 accumulators.

A block is the rows of one (expert, lane, micro-batch): the shape of every kernel call here depends on the routing
alone, never on the layout, so run-to-run determinism of the kernels is enough for the same bits everywhere.

Legend for shape suffixes: N rows of the block, H hidden size, I the expert's inner size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


class ExpertOp(Protocol):
    """How one expert computes. `saved` is whatever the forward wants to see again in its backward."""

    def forward(self, x_NH: Tensor, tensors: Tensors, out_NH: Tensor) -> tuple[Tensor, ...]:
        """Write the expert's answer into `out_NH`; return what the backward needs."""
        ...

    def backward(
        self, dy_NH: Tensor, saved: tuple[Tensor, ...], tensors: Tensors, grads: Tensors, dx_NH: Tensor
    ) -> None:
        """Write the gradient of the rows into `dx_NH` and add the weights' gradients to `grads` (float32)."""
        ...


class FamilyExpert:
    """The definition: the family's own code on a one-expert copy of its module, differentiated by autograd.

    `has_identity`: the module also knows experts that return the token (longcat_flash); its code wants two choices, so
    the second is such an expert with weight 0.
    """

    def __init__(self, one_expert: Callable[[Tensors], nn.Module], has_identity: bool) -> None:
        self._one_expert = one_expert
        self._choices = (0, 1) if has_identity else (0,)

    def forward(self, x_NH: Tensor, tensors: Tensors, out_NH: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            out_NH.copy_(self._run(x_NH, tensors))
        return (x_NH,)

    def backward(
        self, dy_NH: Tensor, saved: tuple[Tensor, ...], tensors: Tensors, grads: Tensors, dx_NH: Tensor
    ) -> None:
        x_NH = saved[0].detach().requires_grad_()
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        with torch.enable_grad():
            y_NH = self._run(x_NH, leaves)
        results = torch.autograd.grad(y_NH, (x_NH, *leaves.values()), dy_NH, allow_unused=True)
        dx_NH.copy_(results[0])
        for name, gradient in zip(leaves, results[1:], strict=True):
            if gradient is not None:
                grads[name].add_(gradient)

    def _run(self, x_NH: Tensor, tensors: Tensors) -> Tensor:
        index_NK = torch.tensor(self._choices, device=x_NH.device).expand(len(x_NH), -1)
        weight_NK = (index_NK == 0).to(x_NH.dtype)
        answer_NH: Tensor = self._one_expert(tensors)(x_NH, index_NK, weight_NK)
        return answer_NH


class SwiGLUExpert:
    """The usual SwiGLU expert, `down(silu(gate) * up)` with `gate_up_proj [2I, H]` and `down_proj [H, I]`, by hand.

    No autograd per block; weight gradients go straight into the accumulators. Shazeer 2020, arXiv 2002.05202, eq. 6.
    """

    names = ("gate_up_proj", "down_proj")

    def forward(self, x_NH: Tensor, tensors: Tensors, out_NH: Tensor) -> tuple[Tensor, ...]:
        gate_up_N2I = F.linear(x_NH, tensors["gate_up_proj"])
        gate_NI, up_NI = gate_up_N2I.chunk(2, dim=-1)
        inner_NI = F.silu(gate_NI).mul_(up_NI)
        torch.mm(inner_NI, tensors["down_proj"].t(), out=out_NH)
        return x_NH, gate_up_N2I, inner_NI

    def backward(
        self, dy_NH: Tensor, saved: tuple[Tensor, ...], tensors: Tensors, grads: Tensors, dx_NH: Tensor
    ) -> None:
        x_NH, gate_up_N2I, inner_NI = saved
        gate_NI, up_NI = gate_up_N2I.chunk(2, dim=-1)
        add_outer(grads["down_proj"], dy_NH, inner_NI)
        dinner_NI = dy_NH @ tensors["down_proj"]
        dgate_up_N2I = torch.empty_like(gate_up_N2I)
        dgate_NI, dup_NI = dgate_up_N2I.chunk(2, dim=-1)
        torch.mul(dinner_NI, F.silu(gate_NI), out=dup_NI)
        dgate_NI.copy_(torch.ops.aten.silu_backward(dinner_NI.mul_(up_NI), gate_NI))
        add_outer(grads["gate_up_proj"], dgate_up_N2I, x_NH)
        torch.mm(dgate_up_N2I, tensors["gate_up_proj"], out=dx_NH)


def add_outer(total: Tensor, left_NA: Tensor, right_NB: Tensor) -> None:
    """total [A, B] (float32) += left^T @ right, summed over rows by one GEMM."""
    if left_NA.dtype == total.dtype:
        total.addmm_(left_NA.t(), right_NB)
    else:
        total.add_(left_NA.t() @ right_NB)


def choose_expert_op(family: FamilyExpert, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> ExpertOp:
    """The fast form where it computes what the family's own code computes, else the family's own code.

    Decided by trying both on one small float32 block, forward and backward, so no family is named here. The answer
    depends on the model alone: every worker chooses alike.
    """
    if set(shapes) != set(SwiGLUExpert.names):
        return family
    (double, hidden), (hidden_down, inner) = shapes["gate_up_proj"], shapes["down_proj"]
    if hidden != hidden_down or double != 2 * inner:
        return family
    fast = SwiGLUExpert()
    return fast if _agree(family, fast, shapes, device) else family


def _agree(one: ExpertOp, other: ExpertOp, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.rand(s, generator=generator).sub_(0.5).to(device) for n, s in shapes.items()}
    hidden = shapes["down_proj"][0]
    x_NH = torch.rand(5, hidden, generator=generator).sub_(0.5).to(device)
    dy_NH = torch.rand(5, hidden, generator=generator).sub_(0.5).to(device)
    results = [_run_both_ways(op, x_NH, dy_NH, tensors) for op in (one, other)]
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max())) for a, b in zip(*results, strict=True))


def _run_both_ways(op: ExpertOp, x_NH: Tensor, dy_NH: Tensor, tensors: Tensors) -> list[Tensor]:
    y_NH, dx_NH = torch.empty_like(x_NH), torch.empty_like(x_NH)
    grads = {n: torch.zeros_like(t) for n, t in tensors.items()}
    saved = op.forward(x_NH, tensors, y_NH)
    op.backward(dy_NH, saved, tensors, grads, dx_NH)
    return [y_NH, dx_NH, *grads.values()]
