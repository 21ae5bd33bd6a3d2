"""Which operator a worker's experts are computed by; a fast form is tried before it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from dougong.ops.experts.base import ExpertOp, Rows, identity_of
from dougong.ops.experts.reference import ByBlock, ByTile, FamilyExpert, SwiGLUExpert, TiledSwiGLU
from dougong.ops.experts.trial_run import TensorShapes, agree, is_sound

ROW_UNIT = 8
"""Half-precision values in 16 bytes: rows of weights and activations are whole multiples."""


Tell = Callable[[str], None]


def tell_no_fallback(text: str) -> None:
    """For whoever looks for a form and no more."""


@dataclass(frozen=True)
class FusedForms:
    """The fused forms of SwiGLU experts that a kind of device has, fastest first, and the dtype of
    the job that they are for. `tell` hears why one of them is not taken."""

    candidates: Iterable[ExpertOp] = ()
    dtype: torch.dtype = torch.float32
    tell: Tell = tell_no_fallback


NO_FUSED = FusedForms()


def choose_expert_op(
    family: FamilyExpert,
    shapes: TensorShapes,
    device: torch.device,
    rows: Rows = "block",
    fused: FusedForms = NO_FUSED,
) -> ExpertOp:
    """A fast form where it computes what the family's own code computes, else that code.

    The choice follows from the model, the job, the kind of device and the installed libraries: all
    workers of a role choose alike.
    """
    if not is_swiglu(family, shapes, device):
        return ByBlock(family) if rows == "block" else ByTile(family, _height(rows))
    found = find_fused(fused, shapes, device)
    if found is not None:
        return found
    return ByBlock(SwiGLUExpert()) if rows == "block" else TiledSwiGLU(_height(rows))


def find_fused(fused: FusedForms, shapes: TensorShapes, device: torch.device) -> ExpertOp | None:
    """The first form that is sound in the job's dtype and shapes; None where there is none, and
    then it is told why.

    `shapes`: of `gate_up_proj` [2I, H] and `down_proj` [H, I]. Widths that are no whole loads of 16
    bytes have no fused form. Raises the error of a device that has failed: nothing runs there.
    """
    candidates = _each(fused)
    if any(size % ROW_UNIT for size in shapes["down_proj"]):
        if next(candidates, None) is not None:
            hidden, inner = shapes["down_proj"]
            fused.tell(
                f"experts of {hidden} x {inner} have no fused form, since a width is no multiple "
                f"of {ROW_UNIT}: they are computed by plain products, which is slower"
            )
        return None
    for op in candidates:
        reason = _why_not(op, shapes, device, fused.dtype)
        if reason is None:
            return op
        fused.tell(
            f"experts are not computed by {identity_of(op)}: {reason}; a slower form runs instead"
        )
    return None


def _each(fused: FusedForms) -> Iterator[ExpertOp]:
    """The candidates, up to the first that cannot be made."""
    candidates = iter(fused.candidates)
    while True:
        try:
            op = next(candidates)
        except StopIteration:
            return
        except Exception as error:
            fused.tell(
                f"a fused form of experts cannot be made: {_words(error)}; a slower one runs"
            )
            return
        yield op


def _why_not(
    op: ExpertOp, shapes: TensorShapes, device: torch.device, dtype: torch.dtype
) -> str | None:
    """None for one that is sound. Whatever a library raises is a reason: no compiler, too little
    shared memory, a dtype that it does not take."""
    try:
        if is_sound(op, shapes, device, dtype):
            return None
    except torch.AcceleratorError:
        raise
    except Exception as error:
        return _words(error)
    return f"its results in {str(dtype).removeprefix('torch.')} are not those of plain products"


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def is_swiglu(family: FamilyExpert, shapes: TensorShapes, device: torch.device) -> bool:
    """Whether SwiGLU is what the family computes: decided by trying both on one small float32
    block, so that no family is named here."""
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
