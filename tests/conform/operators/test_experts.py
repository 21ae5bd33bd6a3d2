"""Fused forms of experts are judged as the composed ones are: rows of NaN in one expert reach no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed, outcome_of
from dougong.conform.operators.experts import expert_checks
from dougong.conform.record import CheckOutcome
from dougong.ops.experts.base import AddWeights, Block, ExpertOp
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert
from torch import Tensor


class Leaking(ByBlock):
    """Its backward lets a number that is none into all rows."""

    def backward(
        self, dy_RH: Tensor, saved: Any, tensors: Any, grads: Any, dx_RH: Tensor, y_RH: Any = None
    ) -> AddWeights:
        add = super().backward(dy_RH, saved, tensors, grads, dx_RH, y_RH)
        if dx_RH.isnan().any():
            dx_RH.fill_(torch.nan)
        return add


class Wrong(ByBlock):
    """Its forward is off by a little."""

    def forward(self, x_RH: Tensor, blocks: Sequence[Block], tensors: Any, out_RH: Tensor) -> Any:
        saved = super().forward(x_RH, blocks, tensors, out_RH)
        out_RH.mul_(1.01)
        return saved


class Offering(Cpu):
    """A processor that offers fused forms."""

    def expert_operators(self) -> Iterator[ExpertOp]:
        yield Leaking(SwiGLUExpert())
        yield Wrong(SwiGLUExpert())


def outcomes(accelerator: Cpu) -> dict[str, CheckOutcome]:
    bed = Bed(accelerator, CPU, Path())
    found = [outcome_of(check, bed) for check in expert_checks(bed)]
    return {outcome.name: outcome for outcome in found}


def test_forms_of_plain_operators_are_sound_and_fused_ones_are_judged() -> None:
    found = outcomes(Offering())
    leaking, wrong = found.pop("Leaking, fused form 1"), found.pop("Wrong, fused form 2")
    assert {outcome.grade for outcome in found.values()} == {"sound"} and len(found) == 3
    assert leaking.grade == wrong.grade == "unsound"
    assert all("a row of NaN, backward to the rows" in words for words in leaking.words), leaking.words
    assert any(words.startswith("float32, ordinary rows, forward: error 1.0e-02") for words in wrong.words)
    assert wrong.operator is not None and wrong.operator.form == "native" and wrong.operator.speed
