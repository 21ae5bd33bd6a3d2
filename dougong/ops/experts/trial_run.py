"""One small wave, computed forward and backward: what an operator must pass before it is trusted.

It is a sample, no proof. Legend: R rows of the wave, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.ops.experts.base import Block, ExpertOp, Tensors
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert

TensorShapes = Mapping[str, tuple[int, ...]]
"""The shape of each of one expert's tensors, by parameter."""

ONE_BLOCK = (Block(0, 0, 0, 5),)
TWO_EXPERTS = (Block(0, 0, 0, 3), Block(1, 0, 3, 40), Block(0, 1, 43, 5))
"""Two lanes. Expert 0 is in both, and expert 1's rows stand between."""


@dataclass(frozen=True)
class SmallWave:
    """An operator's inputs: rows `x_RH`, their outputs' gradients `dy_RH`, weights by expert."""

    blocks: Sequence[Block]
    x_RH: Tensor
    dy_RH: Tensor
    tensors: Mapping[int, Tensors]


@dataclass(frozen=True)
class Results:
    """An operator's outputs `y_RH`, the rows' gradients `dx_RH`, the weights' by expert."""

    y_RH: Tensor
    again_RH: Tensor
    dx_RH: Tensor
    grads: Mapping[int, Tensors]

    def __iter__(self) -> Iterator[Tensor]:
        yield self.y_RH
        yield self.again_RH
        yield self.dx_RH
        for of_expert in self.grads.values():
            yield from of_expert.values()


def agree(
    one: ExpertOp,
    other: ExpertOp,
    shapes: TensorShapes,
    device: torch.device,
    blocks: Sequence[Block] = ONE_BLOCK,
) -> bool:
    """Whether both compute the same on a float32 wave of `blocks`, up to rounding."""
    wave = draw_wave(blocks, shapes, device)
    return _are_close(run(one, wave), run(other, wave))


def is_sound(
    op: ExpertOp,
    shapes: TensorShapes,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> bool:
    """Whether `op` computes SwiGLU experts of this dtype up to rounding, its backward's outputs
    have the bits of the forward's, and an expert's are the same without another expert's rows."""
    wave = draw_wave(TWO_EXPERTS, shapes, device, dtype)
    found = run(op, wave)
    if not _are_close(run(ByBlock(SwiGLUExpert()), wave), found):
        return False
    if not torch.equal(found.y_RH, found.again_RH):
        return False
    alone = _without_expert_1(wave)
    expected = Results(
        _rows_of_expert_0(found.y_RH),
        _rows_of_expert_0(found.again_RH),
        _rows_of_expert_0(found.dx_RH),
        {0: found.grads[0]},
    )
    return all(torch.equal(a, b) for a, b in zip(run(op, alone), expected, strict=True))


def draw_wave(
    blocks: Sequence[Block],
    shapes: TensorShapes,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> SmallWave:
    """Values in -0.5 .. 0.5, the same in every process."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).sub_(0.5).to(device, dtype)

    num_rows = max(block.span.stop for block in blocks)
    hidden = shapes["down_proj"][0]
    x_RH, dy_RH = draw(2, num_rows, hidden)
    tensors: dict[int, Tensors] = {}
    for expert in sorted({block.expert for block in blocks}):
        tensors[expert] = {name: draw(*shape) for name, shape in shapes.items()}
    return SmallWave(blocks, x_RH, dy_RH, tensors)


def run(op: ExpertOp, wave: SmallWave) -> Results:
    """Forward and backward, the weights' gradients included."""
    y_RH = torch.empty_like(wave.x_RH)
    again_RH, dx_RH = torch.empty_like(wave.x_RH), torch.empty_like(wave.x_RH)
    grads: dict[int, Tensors] = {}
    for expert, tensors in wave.tensors.items():
        grads[expert] = {
            name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in tensors.items()
        }
    saved = op.forward(wave.x_RH, wave.blocks, wave.tensors, y_RH)
    add_weights = op.backward(wave.dy_RH, saved, wave.tensors, grads, dx_RH, again_RH)
    add_weights()
    return Results(y_RH, again_RH, dx_RH, grads)


def _without_expert_1(wave: SmallWave) -> SmallWave:
    first, _, last = TWO_EXPERTS
    blocks = (first, Block(last.expert, last.lane, first.count, last.count))
    x_RH, dy_RH = _rows_of_expert_0(wave.x_RH), _rows_of_expert_0(wave.dy_RH)
    return SmallWave(blocks, x_RH, dy_RH, {0: wave.tensors[0]})


def _rows_of_expert_0(rows_RH: Tensor) -> Tensor:
    spans = [block.span for block in TWO_EXPERTS if block.expert == 0]
    return torch.cat([rows_RH[span] for span in spans])


def _are_close(expected: Results, found: Results) -> bool:
    # In half precision two forms may round another number of times on the way.
    is_single = expected.y_RH.dtype == torch.float32
    relative, absolute = (1e-3, 1e-4) if is_single else (3e-2, 2e-2)
    return all(
        torch.allclose(a, b, rtol=relative, atol=absolute * float(a.abs().max()))
        for a, b in zip(expected, found, strict=True)
    )
