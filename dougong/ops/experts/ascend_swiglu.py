"""All SwiGLU experts of a worker at once, on an Ascend NPU, by its plug-in's fused operators.

**Not run on an NPU yet.** Names, arguments and limits follow the plug-in's operator definitions
(`npu_grouped_matmul`, `npu_swiglu`, `npu_swiglu_backward`); a test runs this file against stand-ins
of that form on the CPU. How CANN cuts a grouped product into tiles is not documented: it may follow
the largest group, and then a row's bits would depend on which experts share a call. So the grouped
form is taken only where a trial on the device finds that they do not
(`dougong.ops.experts.trial_run`); else every block is a product of its own. Determinism from run to
run comes from `torch.use_deterministic_algorithms` and the environment that `accelerators/npu.py`
sets.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.ops.alignment import aligned
from dougong.ops.experts.base import AddWeights, Block, Tensors
from dougong.ops.experts.reference import add_outer

Products = Callable[[list[Tensor], list[Tensor]], list[Tensor]]
"""products(left, right): each left [N, K] times its right [K, M]."""

MOST_GROUPS = 128
"""Tensors that one call of npu_grouped_matmul takes."""


def is_available() -> bool:
    """Whether the plug-in has been loaded and knows the fused operators."""
    names = ("npu_swiglu", "npu_swiglu_backward", "npu_grouped_matmul")
    return all(hasattr(torch.ops.npu, name) for name in names)


def expert_operators() -> Iterator[NpuSwiGLU]:
    """What the plug-in offers, fastest first; nothing where it has not been loaded."""
    if is_available():
        yield NpuSwiGLU(grouped_products)
        yield NpuSwiGLU(single_products)


def grouped_products(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """One call for up to 128 products. Every group has tensors of its own, which the operator calls
    split_item 0, group_type -1."""
    results: list[Tensor] = []
    for first in range(0, len(left), MOST_GROUPS):
        part = slice(first, first + MOST_GROUPS)
        results += torch.ops.npu.npu_grouped_matmul(
            left[part], right[part], split_item=0, group_type=-1
        )
    return results


def single_products(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """One product at a time: a result depends on its own rows alone."""
    return [a @ b for a, b in zip(left, right, strict=True)]


def _version() -> str:
    try:
        return importlib.metadata.version("torch-npu")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class AscendSaved:
    """What a backward needs."""

    blocks: Sequence[Block]
    x_RH: Tensor
    gate_up_R2I: Tensor
    inner_RI: Tensor


class NpuSwiGLU:
    """SwiGLU experts, `down(silu(gate) * up)`. A weight gradient is one product for each block,
    added lane by lane.

    With `single_products` a result depends on the rows of its block alone, with `grouped_products`
    on what CANN makes of the groups that share a call (see above). SwiGLU itself is computed
    element by element, for the whole wave.
    """

    def __init__(self, products: Products) -> None:
        self.products = products

    @property
    def identity(self) -> str:
        """Which products, of which release of the plug-in."""
        how = "grouped" if self.products is grouped_products else "single"
        return f"Ascend's SwiGLU with {how} products (torch-npu {_version()})"

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> AscendSaved:
        """Write every row's output into `out_RH` [R, H]."""
        gate_up = [tensors[block.expert]["gate_up_proj"].t() for block in blocks]
        down = [tensors[block.expert]["down_proj"].t() for block in blocks]
        width = gate_up[0].shape[1] if gate_up else 0
        gate_up_R2I = self._run(x_RH, blocks, gate_up, x_RH.new_empty(len(x_RH), width))
        inner_RI = torch.ops.npu.npu_swiglu(gate_up_R2I, -1)
        self._run(inner_RI, blocks, down, out_RH)
        return AscendSaved(blocks, x_RH, gate_up_R2I, inner_RI)

    def backward(
        self,
        dy_RH: Tensor,
        saved: AscendSaved,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        """Write the rows' gradients into `dx_RH`, and the outputs again where they are asked for.

        Returns what adds the weights' gradients to `grads` (float32).
        """
        gate_up = [tensors[block.expert]["gate_up_proj"] for block in saved.blocks]
        down = [tensors[block.expert]["down_proj"] for block in saved.blocks]
        dinner_RI = self._run(dy_RH, saved.blocks, down, torch.empty_like(saved.inner_RI))
        dgate_up_R2I = torch.ops.npu.npu_swiglu_backward(dinner_RI, saved.gate_up_R2I, -1)
        self._run(dgate_up_R2I, saved.blocks, gate_up, dx_RH)
        if y_RH is not None:
            self._run(saved.inner_RI, saved.blocks, [weight.t() for weight in down], y_RH)

        def add_weights() -> None:
            for block in saved.blocks:
                rows, of_expert = block.span, grads[block.expert]
                add_outer(of_expert["down_proj"], dy_RH[rows], saved.inner_RI[rows])
                add_outer(of_expert["gate_up_proj"], dgate_up_R2I[rows], saved.x_RH[rows])

        return add_weights

    def _run(
        self, rows_RK: Tensor, blocks: Sequence[Block], weights: list[Tensor], out_RM: Tensor
    ) -> Tensor:
        """Each block's rows times its weight, into the same rows of `out_RM`."""
        products = self.products([aligned(rows_RK[block.span]) for block in blocks], weights)
        for block, product in zip(blocks, products, strict=True):
            out_RM[block.span] = product
        return out_RM
