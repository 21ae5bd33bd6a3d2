"""Which operator computes all SwiGLU experts of a wave at once, by kind of device; tried before it
is trusted."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dougong.ops.experts import ascend_swiglu
from dougong.ops.experts.base import Block, ExpertOp, OneExpert, Rows, Tensors
from dougong.ops.experts.reference import ByBlock, ByTile, FamilyExpert, SwiGLUExpert, TiledSwiGLU

TensorShapes = Mapping[str, tuple[int, ...]]

ROW_UNIT = 8
"""Half-precision values in 16 bytes: rows of weights and activations are whole multiples."""


def choose_expert_op(
    family: FamilyExpert,
    shapes: Mapping[str, tuple[int, ...]],
    device: torch.device,
    rows: Rows = "block",
) -> ExpertOp:
    """The fast form where it computes what the family's own code computes, else the family's own
    code.

    The choice depends on the model, the job and the kind of device: every worker of a role chooses
    alike.
    """
    swiglu = _is_swiglu(family, shapes, device)
    if swiglu and device.type != "cpu":
        fused = find_fused(shapes, device)
        if fused is not None:
            return fused
    if rows == "block":
        return ByBlock(SwiGLUExpert() if swiglu else family)
    height = None if rows == "expert" else rows
    return TiledSwiGLU(height) if swiglu else ByTile(family, height)


def _is_swiglu(
    family: FamilyExpert, shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> bool:
    """Decided by trying both on one small float32 block, forward and backward, so no family is
    named here."""
    if set(shapes) != set(SwiGLUExpert.names):
        return False
    (double, hidden), (hidden_down, inner) = shapes["gate_up_proj"], shapes["down_proj"]
    if hidden != hidden_down or double != 2 * inner:
        return False
    return _agree(family, SwiGLUExpert(), shapes, device)


def _agree(
    one: OneExpert, other: OneExpert, shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> bool:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        n: torch.rand(s, generator=generator).sub_(0.5).to(device) for n, s in shapes.items()
    }
    hidden = shapes["down_proj"][0]
    x_NH = torch.rand(5, hidden, generator=generator).sub_(0.5).to(device)
    dy_NH = torch.rand(5, hidden, generator=generator).sub_(0.5).to(device)
    results = [_run_both_ways(op, x_NH, dy_NH, tensors) for op in (one, other)]
    return all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
        for a, b in zip(*results, strict=True)
    )


def _run_both_ways(op: OneExpert, x_NH: Tensor, dy_NH: Tensor, tensors: Tensors) -> list[Tensor]:
    y_NH, dx_NH = torch.empty_like(x_NH), torch.empty_like(x_NH)
    grads = {n: torch.zeros_like(t) for n, t in tensors.items()}
    saved = op.forward(x_NH, tensors, y_NH)
    op.backward(dy_NH, saved, tensors, grads, dx_NH)()
    return [y_NH, dx_NH, *grads.values()]


def find_fused(shapes: TensorShapes, device: torch.device) -> ExpertOp | None:
    """The first fused form that this kind of device has and that passes `is_sound`; None where
    there is none.

    `shapes`: of `gate_up_proj` [2I, H] and `down_proj` [H, I]. The answer follows from the model,
    the kind of device and the installed libraries.
    """
    if any(size % ROW_UNIT for size in shapes["down_proj"]):
        return None
    return next((op for op in candidates(device.type) if is_sound(op, shapes, device)), None)


def candidates(kind: str) -> Iterator[ExpertOp]:
    """What a kind of device has, fastest first."""
    if kind == "cuda" and importlib.util.find_spec("triton") is not None:
        from dougong.ops.experts.triton_swiglu import make_grouped

        yield make_grouped()
    if kind == "npu" and ascend_swiglu.is_available():
        yield ascend_swiglu.NpuSwiGLU(ascend_swiglu.grouped_products)
        yield ascend_swiglu.NpuSwiGLU(ascend_swiglu.single_products)


def is_sound(op: ExpertOp, shapes: TensorShapes, device: torch.device) -> bool:
    """Whether `op` computes what the definition does, and an expert's bits are the same without
    another's rows.

    One small float32 wave of two experts and two lanes, forward and backward. A sample, no proof.
    """
    blocks = [Block(0, 0, 0, 3), Block(1, 0, 3, 40), Block(0, 1, 43, 5)]
    alone = [Block(0, 0, 0, 3), Block(0, 1, 3, 5)]
    rows_RH = torch.cat([torch.arange(3), torch.arange(43, 48)]).to(device)
    draw = torch.Generator().manual_seed(0)
    x_RH, dy_RH = _values((2, 48, shapes["down_proj"][0]), draw, device)
    tensors = {e: {n: _values(s, draw, device) for n, s in shapes.items()} for e in range(2)}
    expected = _both_ways(ByBlock(SwiGLUExpert()), x_RH, dy_RH, blocks, tensors)
    found = _both_ways(op, x_RH, dy_RH, blocks, tensors)
    if not all(_is_close(a, b) for a, b in zip(expected, found, strict=True)):
        return False
    single = _both_ways(
        op, x_RH.index_select(0, rows_RH), dy_RH.index_select(0, rows_RH), alone, {0: tensors[0]}
    )
    together = [t.index_select(0, rows_RH) for t in found[:2]] + found[2 : 2 + len(shapes)]
    return all(torch.equal(a, b) for a, b in zip(single, together, strict=True))


def _values(shape: tuple[int, ...], draw: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(shape, generator=draw).sub_(0.5).to(device)


def _is_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def _both_ways(
    op: ExpertOp,
    x_RH: Tensor,
    dy_RH: Tensor,
    blocks: Sequence[Block],
    tensors: Mapping[int, Tensors],
) -> list[Tensor]:
    """y, dx, and the weight gradients, expert by expert."""
    y_RH, dx_RH = torch.empty_like(x_RH), torch.empty_like(x_RH)
    grads = {e: {n: torch.zeros_like(t) for n, t in of.items()} for e, of in tensors.items()}
    op.backward(dy_RH, op.forward(x_RH, blocks, tensors, y_RH), tensors, grads, dx_RH)()
    return [y_RH, dx_RH, *(g for of in grads.values() for g in of.values())]
