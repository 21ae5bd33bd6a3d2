"""Experts some of whose weights are frozen, or stand for a frozen weight and a low-rank adapter.

Legend for shape suffixes: see `base`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dougong.ops.adapter_names import adapter_of, is_adapter
from dougong.ops.experts.base import AddWeights, Block, ExpertOp, Tensors, identity_of, nothing_left


@dataclass(frozen=True)
class Adapter:
    """How an adapted weight is made. `scaling`: alpha / rank; `is_transposed`: the weight lies
    [in, out] and not [out, in]."""

    scaling: float
    is_transposed: bool = False

    def merged(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """W + alpha / rank B A, rounded once to the dtype of `weight` (Hu et al. 2021, section
        4.1). `a` [r, in], `b` [out, r]: float32."""
        left, right = (a.t(), b.t()) if self.is_transposed else (b, a)
        return torch.addmm(weight.float(), left, right, alpha=self.scaling).to(weight.dtype)

    def add_gradients(self, gradient: Tensor, halves: Tensors, into: Tensors) -> None:
        """Add to those of A and B what follows from the gradient of `merged`, float32."""
        of_weight = gradient.t() if self.is_transposed else gradient
        into["A"].addmm_(halves["B"].t(), of_weight, alpha=self.scaling)
        into["B"].addmm_(of_weight, halves["A"].t(), alpha=self.scaling)


@dataclass(frozen=True)
class _Saved:
    """`inner`: the operator's own; `experts`: those that had rows."""

    inner: Any
    experts: tuple[int, ...]


class AdaptedExperts:
    """Every expert computes with merged weights, which are made for each wave anew and never kept:
    what lasts of a weight is its frozen copy and the adapter. What is computed is then what a model
    computes into which the adapters were merged, bit by bit."""

    def __init__(self, op: ExpertOp, adapter: Adapter) -> None:
        self._op, self._adapter = op, adapter

    @property
    def identity(self) -> str:
        return f"{identity_of(self._op)}, adapters merged by a float32 product"

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> Any:
        experts = tuple(sorted({block.expert for block in blocks}))
        merged = self._merged(experts, tensors)
        return _Saved(self._op.forward(x_RH, blocks, merged, out_RH), experts)

    def backward(
        self,
        dy_RH: Tensor,
        saved: Any,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        merged = self._merged(saved.experts, tensors)
        into = {expert: _room(merged[expert], grads[expert]) for expert in saved.experts}
        rest = self._op.backward(dy_RH, saved.inner, merged, into, dx_RH, y_RH)

        def add() -> None:
            rest()
            for expert in saved.experts:
                self._add(tensors[expert], into[expert], grads[expert])

        return add

    def _merged(
        self, experts: Sequence[int], tensors: Mapping[int, Tensors]
    ) -> dict[int, dict[str, Tensor]]:
        found: dict[int, dict[str, Tensor]] = {}
        for expert in experts:
            found[expert] = {}
            for name, weight in _weights(tensors[expert]):
                halves = _halves(tensors[expert], name)
                if halves:
                    weight = self._adapter.merged(weight, halves["A"], halves["B"])
                found[expert][name] = weight
        return found

    def _add(self, tensors: Tensors, of_merged: Tensors, grads: Tensors) -> None:
        for name, _ in _weights(tensors):
            halves = _halves(tensors, name)
            if halves:
                self._adapter.add_gradients(of_merged[name], halves, _halves(grads, name))


class PartlyFrozen:
    """The gradients of some weights are not wanted: where none is, nothing is added up."""

    def __init__(self, op: ExpertOp) -> None:
        self._op = op

    @property
    def identity(self) -> str:
        return identity_of(self._op)

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> Any:
        return self._op.forward(x_RH, blocks, tensors, out_RH)

    def backward(
        self,
        dy_RH: Tensor,
        saved: Any,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        # What nobody wants is thrown together: one tensor for all experts.
        scratch: dict[str, Tensor] = {}
        into = {}
        for expert, weights in tensors.items():
            into[expert] = dict(grads[expert])
            for name in weights.keys() - grads[expert].keys():
                if name not in scratch:
                    scratch[name] = torch.zeros_like(weights[name], dtype=torch.float32)
                into[expert][name] = scratch[name]
        rest = self._op.backward(dy_RH, saved, tensors, into, dx_RH, y_RH)
        return rest if any(grads.values()) else nothing_left


def _weights(tensors: Tensors) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in tensors.items() if not is_adapter(name)]


def _halves(tensors: Tensors, name: str) -> dict[str, Tensor]:
    """Of the adapter of a weight, by `A` and `B`; none where it has no adapter."""
    names = {"A": adapter_of(name, "A"), "B": adapter_of(name, "B")}
    return {half: tensors[known] for half, known in names.items() if known in tensors}


def _room(weights: Tensors, grads: Tensors) -> dict[str, Tensor]:
    """Where gradients of weights are added up: of those that are trained where they belong."""
    found = {}
    for name, weight in weights.items():
        own = grads.get(name)
        found[name] = torch.zeros_like(weight, dtype=torch.float32) if own is None else own
    return found
