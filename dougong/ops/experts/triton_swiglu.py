"""All SwiGLU experts of a worker at once, on an NVIDIA GPU, by `triton_kernels`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import triton
from torch import Tensor

from dougong.ops.experts import triton_kernels as kernels
from dougong.ops.experts.base import AddWeights, Block, Tensors, nothing_left
from dougong.ops.experts.tile_tables import (
    Tiles,
    Wave,
    arrange,
    choose_tiles,
    in_words,
)

DTYPES = (torch.float32, torch.bfloat16)
ALIGNMENT = 16
"""Bytes that one load takes: every tensor begins at a multiple of them."""


@dataclass(frozen=True)
class TritonSaved:
    """What a backward needs.

    The product inner = silu(gate) * up is computed again: a third less memory.
    """

    wave: Wave
    x_RH: Tensor
    gate_up_R2I: Tensor


class GroupedSwiGLU:
    """SwiGLU experts, `down(silu(gate) * up)` with `gate_up_proj [2I, H]` and `down_proj [H, I]`.

    Two launches forward, four backward, and one more where outputs are asked for again. Shazeer
    2020, arXiv 2002.05202, eq. 6.

    A row's output and gradient depend on that row, its expert's weights, their dtype and the tiles'
    sizes alone; an expert's weight gradients on its rows lane by lane, in the order of lanes. Which
    other experts the worker owns, and what is next to a row, changes nothing
    (`tests/ops/experts/test_triton_kernels.py`). So no product has to be of one block.

    `choose(dtype)` names the tiles' sizes.
    """

    names = ("gate_up_proj", "down_proj")

    def __init__(self, choose: Callable[[torch.dtype], Tiles]) -> None:
        self.tiles = choose

    @property
    def identity(self) -> str:
        """Its kernels' language and compiler, and all sizes of its tiles."""
        sizes = " and ".join(in_words(self.tiles(dtype)) for dtype in DTYPES)
        return f"grouped Triton kernels (triton {triton.__version__}, tiles {sizes})"

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> TritonSaved:
        """Write the rows' outputs into `out_RH` [R, H].

        All in the dtype of the weights, sums in float32.
        """
        tiles = self.tiles(x_RH.dtype)
        wave = arrange(blocks, tiles.height, x_RH.device)
        if not wave.num_tiles:
            return TritonSaved(wave, x_RH, x_RH.new_empty(len(x_RH), 0))
        width = len(tensors[wave.order[0]]["gate_up_proj"])
        gate_up_R2I = x_RH.new_empty(len(x_RH), width)
        inner_RI = x_RH.new_empty(len(x_RH), width // 2)
        gate_up, down = (addresses(wave, tensors, name, x_RH.dtype) for name in self.names)
        kernels.gate_up(wave, tiles.gate_up, x_RH, gate_up, gate_up_R2I, inner_RI)
        kernels.linear(wave, tiles.linear, inner_RI, down, out_RH, transposed=True)
        return TritonSaved(wave, x_RH, gate_up_R2I)

    def backward(
        self,
        dy_RH: Tensor,
        saved: TritonSaved,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        """Write the rows' gradients into `dx_RH`, and the outputs again where they are asked for.

        Returns what adds the weights' gradients to `grads` (float32).
        """
        wave, tiles = saved.wave, self.tiles(dy_RH.dtype)
        if not wave.num_tiles:
            return nothing_left
        gate_up, down = (addresses(wave, tensors, name, dy_RH.dtype) for name in self.names)
        dgate_up_R2I = torch.empty_like(saved.gate_up_R2I)
        inner_RI = kernels.inner_backward(
            wave, tiles.inner_backward, dy_RH, down, saved.gate_up_R2I, dgate_up_R2I
        )
        kernels.linear(wave, tiles.linear, dgate_up_R2I, gate_up, dx_RH, transposed=False)
        if y_RH is not None:
            # `inner_backward` rounds silu(gate) * up as the forward does.
            kernels.linear(wave, tiles.linear, inner_RI, down, y_RH, transposed=True)

        def add_weights() -> None:
            dgate_up, ddown = (addresses(wave, grads, name, torch.float32) for name in self.names)
            kernels.weight_gradient(wave, tiles.weight_gradient, dy_RH, inner_RI, ddown)
            kernels.weight_gradient(wave, tiles.weight_gradient, dgate_up_R2I, saved.x_RH, dgate_up)

        return add_weights


def addresses(wave: Wave, tensors: Mapping[int, Tensors], name: str, dtype: torch.dtype) -> Tensor:
    """Where the parameter `name` of each expert of the wave begins: int64 [number of experts], by
    slot, on the wave's device."""
    found = []
    for expert in wave.order:
        tensor = tensors[expert][name]
        assert tensor.dtype == dtype and _is_readable(tensor), (
            f"{name}: kernels take contiguous, aligned tensors of {dtype}, not {tensor.dtype}"
        )
        found.append(tensor.data_ptr())
    return torch.tensor(found).to(wave.rows.device, non_blocking=True)


def _is_readable(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0


def make_grouped() -> GroupedSwiGLU:
    """With the tiles of the current GPU."""
    return GroupedSwiGLU(partial(choose_tiles, arch=kernels.device_arch()))
