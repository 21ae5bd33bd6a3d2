"""Experts on the rows of a micro-batch: forward, backward, and the weights' gradients.

The weights' gradients are added into float32 accumulators.

A *block* is the rows of one (expert, lane, micro-batch); a *wave* is all of a worker's blocks of
one micro-batch, lane by lane. The shape of every product here follows from the routing and the job
alone, never from the layout, so that determinism of the kernels from run to run is enough for the
same bits everywhere (docs/design/determinism.md).

Legend for shape suffixes: R rows of a wave, N rows of a block or tile, M rows of a wave after
padding, H hidden size, I the expert's inner size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.ops.alignment import aligned, product_into
from dougong.ops.experts.base import AddWeights, Block, OneExpert, Tensors, nothing_left

T = TypeVar("T")

_silu_backward = torch.ops.aten.silu_backward.grad_input
"""Looked up once: torch takes longer for the name than for the call."""


class ByBlock:
    """One product for each block: results depend on its rows alone. Weight gradients are added lane
    by lane."""

    def __init__(self, one: OneExpert) -> None:
        self.one = one

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> Any:
        saved = []
        for block in blocks:
            x_NH, out_NH = x_RH[block.span], out_RH[block.span]
            saved.append((block, self.one.forward(x_NH, tensors[block.expert], out_NH)))
        return saved

    def backward(
        self,
        dy_RH: Tensor,
        saved: Any,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        rest = []
        for block, of_block in _taken(saved):
            dy_NH, dx_NH = dy_RH[block.span], dx_RH[block.span]
            y_NH = None if y_RH is None else y_RH[block.span]
            weights, into = tensors[block.expert], grads[block.expert]
            rest.append(self.one.backward(dy_NH, of_block, weights, into, dx_NH, y_NH))
        return partial(_add_each, rest)


class ByTile:
    """One product for each tile of `height` rows of an expert, the lanes' rows one after another,
    the last tile filled up with zeros; without a height, for all rows of an expert. Faster than
    `ByBlock` where blocks are small.

    A row's output and gradient depend on the row and on its place in its tile; weight gradients are
    added tile by tile. Which rows share a tile follows from the routing of the whole micro-batch,
    which no layout changes.
    """

    def __init__(self, one: OneExpert, height: int | None) -> None:
        self.one = one
        self.height = height

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> Any:
        tiling = Tiling(blocks, self.height)
        x_MH = tiling.pad(x_RH)
        y_MH = torch.empty_like(x_MH)
        kept = []
        for expert, tile in tiling.tiles():
            of_tile = self.one.forward(x_MH[tile], tensors[expert], y_MH[tile])
            kept.append((expert, tile, of_tile))
        tiling.unpad(y_MH, out_RH)
        return tiling, kept

    def backward(
        self,
        dy_RH: Tensor,
        saved: Any,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        tiling, kept = saved
        dy_MH = tiling.pad(dy_RH)
        dx_MH = torch.empty_like(dy_MH)
        y_MH = None if y_RH is None else torch.empty_like(dy_MH)
        rest = []
        for expert, tile, of_tile in _taken(kept):
            dy_NH, dx_NH = dy_MH[tile], dx_MH[tile]
            y_NH = None if y_MH is None else y_MH[tile]
            weights, into = tensors[expert], grads[expert]
            rest.append(self.one.backward(dy_NH, of_tile, weights, into, dx_NH, y_NH))
        tiling.unpad(dx_MH, dx_RH)
        if y_RH is not None and y_MH is not None:
            tiling.unpad(y_MH, y_RH)
        return partial(_add_each, rest)


def _taken(kept: list[T]) -> Iterator[T]:
    """From first to last. The list lets go of each, so that its memory is free as soon as it has
    been used."""
    while kept:
        yield kept.pop(0)


def _add_each(rest: list[AddWeights]) -> None:
    for add in _taken(rest):
        add()


class Tiling:
    """Rows of a wave, expert by expert and lane by lane, each expert's filled up to whole tiles.

    `height`: rows of a tile; None: one tile for each expert, as high as it needs to be. `spans`:
    (expert, its rows after padding), experts in ascending order.
    """

    def __init__(self, blocks: Sequence[Block], height: int | None) -> None:
        self._height = height
        self.spans: list[tuple[int, slice]] = []
        places: dict[int, range] = {}  # by a block's first row: where its rows go
        by_expert = sorted(blocks, key=lambda block: (block.expert, block.lane))
        for expert, group in groupby(by_expert, key=lambda block: block.expert):
            start = end = self.num_rows
            for block in group:
                places[block.start] = range(end, end + block.count)
                end += block.count
            self.spans.append((expert, slice(start, start + self._padded(end - start))))
        in_order = [places[first] for first in sorted(places)]
        self._places_R = torch.tensor(list(chain.from_iterable(in_order)), dtype=torch.int64)

    @property
    def num_rows(self) -> int:
        """M."""
        return self.spans[-1][1].stop if self.spans else 0

    def tiles(self) -> Iterator[tuple[int, slice]]:
        """(expert, rows) of every tile."""
        for expert, span in self.spans:
            height = self._height or span.stop - span.start
            for start in range(span.start, span.stop, height):
                yield expert, slice(start, start + height)

    def pad(self, rows_RH: Tensor) -> Tensor:
        """[M, H], zeros between."""
        self._places_R = self._places_R.to(rows_RH.device)
        padded_MH = rows_RH.new_zeros(self.num_rows, rows_RH.shape[1])
        return padded_MH.index_copy_(0, self._places_R, rows_RH)

    def unpad(self, rows_MH: Tensor, out_RH: Tensor) -> None:
        """The wave's own rows, in its order."""
        torch.index_select(rows_MH, 0, self._places_R, out=out_RH)

    def _padded(self, num_rows: int) -> int:
        """Rows of an expert after padding."""
        height = self._height or 1
        return -(-num_rows // height) * height


class FamilyExpert:
    """The definition: the family's own code on a one-expert copy of its module, differentiated by
    autograd.

    `has_identity`: the module also knows experts that return the token (longcat_flash); its code
    wants two choices, so the second is such an expert with weight 0.
    """

    def __init__(self, one_expert: Callable[[Tensors], nn.Module], has_identity: bool) -> None:
        self._one_expert = one_expert
        self._choices = (0, 1) if has_identity else (0,)

    def forward(self, x_NH: Tensor, tensors: Tensors, out_NH: Tensor) -> tuple[Tensor, ...]:
        x_NH = aligned(x_NH)
        with torch.no_grad():
            out_NH.copy_(self._run(x_NH, tensors))
        return (x_NH,)

    def backward(
        self,
        dy_NH: Tensor,
        saved: tuple[Tensor, ...],
        tensors: Tensors,
        grads: Tensors,
        dx_NH: Tensor,
        y_NH: Tensor | None = None,
    ) -> AddWeights:
        """Adds the weights' gradients at once: autograd computes both together."""
        x_NH = saved[0].detach().requires_grad_()
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        with torch.enable_grad():
            again_NH = self._run(x_NH, leaves)
        if y_NH is not None:
            y_NH.copy_(again_NH.detach())
        inputs = (x_NH, *leaves.values())
        results = torch.autograd.grad(again_NH, inputs, aligned(dy_NH), allow_unused=True)
        dx_NH.copy_(results[0])
        for name, gradient in zip(leaves, results[1:], strict=True):
            if gradient is not None:
                grads[name].add_(gradient)
        return nothing_left

    def _run(self, x_NH: Tensor, tensors: Tensors) -> Tensor:
        index_NK = torch.tensor(self._choices, device=x_NH.device).expand(len(x_NH), -1)
        weight_NK = (index_NK == 0).to(x_NH.dtype)
        out_NH: Tensor = self._one_expert(tensors)(x_NH, index_NK, weight_NK)
        return out_NH


class SwiGLUExpert:
    """The usual SwiGLU expert, `down(silu(gate) * up)` with `gate_up_proj [2I, H]` and `down_proj
    [H, I]`, by hand.

    No autograd per block; weight gradients go straight into the accumulators. Shazeer 2020, arXiv
    2002.05202, eq. 6.
    """

    names = ("gate_up_proj", "down_proj")

    def forward(self, x_NH: Tensor, tensors: Tensors, out_NH: Tensor) -> tuple[Tensor, ...]:
        gate_up_N2I = aligned(x_NH) @ tensors["gate_up_proj"].t()
        gate_NI, up_NI = gate_up_N2I.chunk(2, dim=-1)
        inner_NI = F.silu(gate_NI).mul_(up_NI)
        product_into(inner_NI, tensors["down_proj"].t(), out_NH)
        return x_NH, gate_up_N2I, inner_NI

    def backward(
        self,
        dy_NH: Tensor,
        saved: tuple[Tensor, ...],
        tensors: Tensors,
        grads: Tensors,
        dx_NH: Tensor,
        y_NH: Tensor | None = None,
    ) -> AddWeights:
        x_NH, gate_up_N2I, inner_NI = saved
        dgate_up_N2I = torch.empty_like(gate_up_N2I)
        _swiglu_backward(dy_NH, tensors, gate_up_N2I, dgate_up_N2I, dx_NH)
        if y_NH is not None:
            product_into(inner_NI, tensors["down_proj"].t(), y_NH)

        def add_weights() -> None:
            add_outer(grads["down_proj"], dy_NH, inner_NI)
            add_outer(grads["gate_up_proj"], dgate_up_N2I, x_NH)

        return add_weights


class TiledSwiGLU:
    """`SwiGLUExpert` by tiles as in `ByTile`, but with weight gradients as one product over all
    rows of an expert."""

    def __init__(self, height: int | None) -> None:
        self.height = height

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> Any:
        tiling = Tiling(blocks, self.height)
        x_MH = tiling.pad(x_RH)
        double = next(iter(tensors.values()))["gate_up_proj"].shape[0]
        gate_up_M2I = x_MH.new_empty(len(x_MH), double)
        inner_MI = x_MH.new_empty(len(x_MH), double // 2)
        y_MH = torch.empty_like(x_MH)
        for expert, tile in tiling.tiles():
            _swiglu(x_MH[tile], tensors[expert], gate_up_M2I[tile], inner_MI[tile], y_MH[tile])
        tiling.unpad(y_MH, out_RH)
        return tiling, x_MH, gate_up_M2I, inner_MI

    def backward(
        self,
        dy_RH: Tensor,
        saved: Any,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        tiling, x_MH, gate_up_M2I, inner_MI = saved
        dy_MH = tiling.pad(dy_RH)
        dx_MH, dgate_up_M2I = torch.empty_like(dy_MH), torch.empty_like(gate_up_M2I)
        for expert, tile in tiling.tiles():
            _swiglu_backward(
                dy_MH[tile], tensors[expert], gate_up_M2I[tile], dgate_up_M2I[tile], dx_MH[tile]
            )
        tiling.unpad(dx_MH, dx_RH)
        if y_RH is not None:
            y_MH = torch.empty_like(x_MH)
            for expert, tile in tiling.tiles():
                product_into(inner_MI[tile], tensors[expert]["down_proj"].t(), y_MH[tile])
            tiling.unpad(y_MH, y_RH)

        def add_weights() -> None:
            for expert, span in tiling.spans:
                add_outer(grads[expert]["down_proj"], dy_MH[span], inner_MI[span])
                add_outer(grads[expert]["gate_up_proj"], dgate_up_M2I[span], x_MH[span])

        return add_weights


def _swiglu(
    x_NH: Tensor, tensors: Tensors, gate_up_N2I: Tensor, inner_NI: Tensor, out_NH: Tensor
) -> None:
    product_into(x_NH, tensors["gate_up_proj"].t(), gate_up_N2I)
    gate_NI, up_NI = gate_up_N2I.chunk(2, dim=-1)
    torch.mul(F.silu(gate_NI), up_NI, out=inner_NI)
    product_into(inner_NI, tensors["down_proj"].t(), out_NH)


def _swiglu_backward(
    dy_NH: Tensor, tensors: Tensors, gate_up_N2I: Tensor, dgate_up_N2I: Tensor, dx_NH: Tensor
) -> None:
    gate_NI, up_NI = gate_up_N2I.chunk(2, dim=-1)
    dgate_NI, dup_NI = dgate_up_N2I.chunk(2, dim=-1)
    dinner_NI = aligned(dy_NH) @ tensors["down_proj"]
    torch.mul(dinner_NI, F.silu(gate_NI), out=dup_NI)
    _silu_backward(dinner_NI.mul_(up_NI), gate_NI, grad_input=dgate_NI)
    product_into(dgate_up_N2I, tensors["gate_up_proj"], dx_NH)


def add_outer(total: Tensor, left_NA: Tensor, right_NB: Tensor) -> None:
    """total [A, B] (float32) += left^T @ right, summed over rows by one GEMM."""
    left_NA, right_NB = aligned(left_NA), aligned(right_NB)
    if left_NA.dtype == total.dtype:
        total.addmm_(left_NA.t(), right_NB)
    else:
        total.add_(left_NA.t() @ right_NB)
