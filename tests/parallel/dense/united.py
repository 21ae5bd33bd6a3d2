"""Units of a few tensors, and plans of workers that have lanes and own some of them."""

from __future__ import annotations

import torch
from dougong.parallel.dense.unit_tensors import UnitTensors
from dougong.parallel.plan import Plan
from dougong.parallel.units import DenseUnits, Unit
from torch import Tensor, nn

UNITS = DenseUnits(
    (Unit("embed", ("e",)), Unit("layers.0", ("a", "b")), Unit("layers.1", ("c", "d")), Unit("head", ("h",))),
    ("tied",),
    ((0, 1), (1, 2), (2, 3)),
)
SHAPES: dict[str, tuple[int, ...]] = {
    "e": (40, 3), "a": (4, 4), "b": (7,), "c": (4, 4), "d": (), "h": (3, 1, 5), "tied": (6, 2),
}  # fmt: skip


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if name == "b" else torch.bfloat16


def master(name: str, step: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + list(SHAPES).index(name))
    return torch.randn(SHAPES[name], generator=generator)


def tensors_of(plan: Plan, rank: int) -> tuple[UnitTensors, dict[str, Tensor]]:
    """Of one worker, with the masters of what it owns."""
    parameters = {name: nn.Parameter(torch.empty(0, dtype=dtype_of(name))) for name in SHAPES}
    forms = {name: torch.empty(shape, dtype=dtype_of(name), device="meta") for name, shape in SHAPES.items()}
    masters = {name: master(name) for name, owner in plan.owners.items() if owner == rank}
    return UnitTensors(UNITS, parameters, forms, plan.owners, masters), masters
