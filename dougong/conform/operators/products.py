"""Products of matrices.

Legend: R rows, K the length of a sum, N columns, B a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.conform.check import CPU
from dougong.conform.judge import Exactness, deviance, tolerance_of
from dougong.conform.operators.case import Case, Draw

_R, _K, _N = 24, 520, 40  # a sum that no power of two divides


def product_cases() -> Iterator[Case]:
    """What a step multiplies: rows by a weight, in every place of it, and batches of matrices."""

    def rows_and_weight(draw: Draw) -> tuple[Tensor, ...]:
        return draw.values(_R, _K), draw.values(_N, _K, low=-1.0)

    def with_bias(draw: Draw) -> tuple[Tensor, ...]:
        return (*rows_and_weight(draw), draw.values(_N, low=40.0, high=90.0))

    def batches(draw: Draw) -> tuple[Tensor, ...]:
        return draw.values(6, 20, 72), draw.values(6, 72, 33, low=-1.0)

    def one_by_one(x_BRK: Tensor, w_BKN: Tensor) -> Tensor:
        return torch.stack([x_RK @ w_KN for x_RK, w_KN in zip(x_BRK, w_BKN, strict=True)])

    def to_the_weight(dy_RN: Tensor, x_RK: Tensor) -> Tensor:
        return dy_RN.t() @ x_RK

    def added(total_NK: Tensor, dy_RN: Tensor, x_RK: Tensor) -> Tensor:
        return total_NK.clone().addmm_(dy_RN.t(), x_RK)

    product = Exactness.PRODUCT
    yield Case("mm", "aten::mm", F.linear, rows_and_weight, product, (0, 1), rows=(0,))
    yield Case(
        "linear with bias",
        "aten::addmm",
        F.linear,
        with_bias,
        product,
        (0, 1, 2),
        rows=(0,),
        composed=lambda x, weight, bias: x @ weight.t() + bias,
    )
    yield Case(
        "bmm", "aten::bmm", torch.bmm, batches, product, (0, 1), rows=(0, 1), composed=one_by_one
    )
    yield Case(
        "mm of a transposed matrix",
        "aten::mm",
        to_the_weight,
        lambda draw: (draw.values(_K, _N, low=-1.0), draw.values(_K, _R)),
        product,
    )
    yield Case(
        "addmm_ into a sum",
        "aten::addmm_",
        added,
        lambda draw: (draw.values(_N, _R), draw.values(_K, _N, low=-1.0), draw.values(_K, _R)),
        product,
        dtypes=(torch.float32,),
        composed=lambda total_NK, dy_RN, x_RK: total_NK + dy_RN.t() @ x_RK,
    )


def reads_tf32(device: torch.device) -> bool:
    """Whether products of float32 have the precision of TF32 there, and no less."""
    draw = Draw()
    x_RK, w_KN = draw.values(_R, _K).float(), draw.values(_K, _N, low=-1.0).float()
    found = (x_RK.to(device) @ w_KN.to(device)).to(CPU)
    product = Exactness.PRODUCT
    error = deviance(found, x_RK.double() @ w_KN.double(), product).error
    narrow = tolerance_of(product, torch.float32)
    return narrow < error <= tolerance_of(product, torch.float32, tf32=True)
