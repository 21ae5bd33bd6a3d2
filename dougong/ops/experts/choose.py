"""Which operator a worker's experts are computed by; a fast form is tried before it is trusted."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dougong.ops.experts.base import ExpertOp, Rows
from dougong.ops.experts.reference import ByBlock, ByTile, FamilyExpert, SwiGLUExpert, TiledSwiGLU
from dougong.ops.experts.trial_run import TensorShapes, agree, is_sound

ROW_UNIT = 8
"""Half-precision values in 16 bytes: rows of weights and activations are whole multiples."""


def choose_expert_op(
    family: FamilyExpert,
    shapes: TensorShapes,
    device: torch.device,
    rows: Rows = "block",
    candidates: Iterable[ExpertOp] = (),
) -> ExpertOp:
    """A fast form where it computes what the family's own code computes, else that code.

    `candidates`: the fused forms of SwiGLU that this kind of device has, fastest first. The choice
    follows from the model, the job, the kind of device and the installed libraries: all workers of
    a role choose alike.
    """
    if not _is_swiglu(family, shapes, device):
        return ByBlock(family) if rows == "block" else ByTile(family, _height(rows))
    fused = find_fused(candidates, shapes, device)
    if fused is not None:
        return fused
    return ByBlock(SwiGLUExpert()) if rows == "block" else TiledSwiGLU(_height(rows))


def find_fused(
    candidates: Iterable[ExpertOp], shapes: TensorShapes, device: torch.device
) -> ExpertOp | None:
    """The first of `candidates` that passes `is_sound`; None where there is none.

    `shapes`: of `gate_up_proj` [2I, H] and `down_proj` [H, I]. Widths that are no whole loads of 16
    bytes have no fused form.
    """
    if any(size % ROW_UNIT for size in shapes["down_proj"]):
        return None
    for op in candidates:
        if is_sound(op, shapes, device):
            return op
    return None


def _is_swiglu(family: FamilyExpert, shapes: TensorShapes, device: torch.device) -> bool:
    """Decided by trying both on one small float32 block, so that no family is named here."""
    if set(shapes) != set(SwiGLUExpert.names):
        return False
    double, hidden = shapes["gate_up_proj"]
    hidden_down, inner = shapes["down_proj"]
    if hidden != hidden_down or double != 2 * inner:
        return False
    return agree(ByBlock(family), ByBlock(SwiGLUExpert()), shapes, device)


def _height(rows: Rows) -> int | None:
    """Rows of a tile; None: all rows of an expert."""
    assert rows != "block"
    return None if rows == "expert" else rows
