"""The probe of a job's experts: the fused form that this device would compute them by, if any."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dougong.fingerprint.bench import Bench, Probe
from dougong.fingerprint.record import JobShapes
from dougong.ops.experts.base import ExpertOp, Tensors
from dougong.ops.experts.choose import FusedForms, find_fused
from dougong.ops.experts.trial_run import TWO_EXPERTS, SmallWave, run

COMPOSED = "plain products"
"""By what experts are computed where no fused form is taken."""


def fused_form(
    candidates: Iterable[ExpertOp], bench: Bench, shapes: JobShapes, dtype: torch.dtype
) -> ExpertOp | None:
    """The one that a worker on this device takes for the job's experts."""
    if not shapes.swiglu:
        return None
    return find_fused(FusedForms(candidates, dtype), _tensors_of(shapes), bench.device)


def experts_probe(op: ExpertOp, bench: Bench, shapes: JobShapes, dtype: torch.dtype) -> Probe:
    """Forward and backward of a small wave of the job's own widths."""

    def probe() -> list[Tensor]:
        num_rows = max(block.span.stop for block in TWO_EXPERTS)
        tensors: dict[int, Tensors] = {}
        for expert in sorted({block.expert for block in TWO_EXPERTS}):
            tensors[expert] = {
                name: bench.values(f"{name} {expert}", *shape, dtype=dtype)
                for name, shape in _tensors_of(shapes).items()
            }
        x_RH = bench.values("x", num_rows, shapes.hidden, dtype=dtype)
        dy_RH = bench.values("dy", num_rows, shapes.hidden, dtype=dtype)
        return list(run(op, SmallWave(TWO_EXPERTS, x_RH, dy_RH, tensors)))

    return probe


def _tensors_of(shapes: JobShapes) -> dict[str, tuple[int, int]]:
    return {
        "gate_up_proj": (2 * shapes.inner, shapes.hidden),
        "down_proj": (shapes.hidden, shapes.inner),
    }
