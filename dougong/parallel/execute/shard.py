"""The experts that one worker owns: their outputs, and the gradients of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dougong.ops.experts.base import AddWeights, Block, ExpertOp, nothing_left
from dougong.ops.sizes import ALIGNMENT_BYTES, rounded_up
from dougong.parallel.schedules.operation import CallKey

Expert = Mapping[int, Mapping[str, Tensor]]
"""Tensors by expert and parameter."""


ALIGNMENT = ALIGNMENT_BYTES // 4
"""Float32 numbers at whose multiples gradients begin."""


class ExpertShard:
    """Owned experts of every site. `tensors[site][expert]` are compute copies; gradients are
    float32.

    The weight gradients of a micro-batch are added in the order of the operator, micro-batches in
    the order of the calls: the same on every layout, since an expert's worker gets the rows of all
    lanes.
    """

    def __init__(self, op: ExpertOp, tensors: Sequence[Expert]) -> None:
        self._op = op
        self._tensors = tensors
        self._saved: dict[CallKey, Any] = {}
        self._rest: dict[CallKey, AddWeights] = {}
        self._flat = [_room_for(site) for site in tensors]
        pairs = zip(self._flat, tensors, strict=True)
        self.gradients = [_views_like(flat, site) for flat, site in pairs]

    def zero_gradients(self) -> None:
        """Start a step: all gradients are zero."""
        for flat in self._flat:
            flat.zero_()

    def forward(
        self, key: CallKey, rows_RH: Tensor, blocks: Sequence[Block], keep: bool = True
    ) -> Tensor:
        """The outputs of a batch's rows, [R, H]. `keep`: a backward will follow."""
        outputs_RH = torch.empty_like(rows_RH)
        saved = None
        if blocks:
            saved = self._op.forward(rows_RH, blocks, self._tensors[key[0]], outputs_RH)
        if keep:
            self._saved[key] = saved
        return outputs_RH

    def backward(self, key: CallKey, doutputs_RH: Tensor) -> Tensor:
        """Gradients [R, H] of the rows of `forward`, from those of its outputs. `add_weights` must
        follow."""
        drows_RH = torch.empty_like(doutputs_RH)
        site, saved = key[0], self._saved.pop(key)
        self._rest[key] = nothing_left
        if saved is not None:
            into = self.gradients[site]
            self._rest[key] = self._op.backward(
                doutputs_RH, saved, self._tensors[site], into, drows_RH
            )
        return drows_RH

    def add_weights(self, key: CallKey) -> None:
        """Add the gradients of the weights of a batch, after its `backward`."""
        self._rest.pop(key)()


def _room_for(experts: Expert) -> Tensor:
    """One float32 buffer, zero, for the gradients of all experts of a site: to clear it is one
    kernel, however many they are."""
    tensors: list[Tensor] = []
    for of_one in experts.values():
        tensors += of_one.values()
    numel = sum(rounded_up(tensor.numel(), ALIGNMENT) for tensor in tensors)
    device = tensors[0].device if tensors else None
    return torch.zeros(numel, dtype=torch.float32, device=device)


def _views_like(flat: Tensor, experts: Expert) -> dict[int, dict[str, Tensor]]:
    """The buffer's parts, in the shapes of a site's tensors."""
    begin = 0
    views: dict[int, dict[str, Tensor]] = {}
    for expert, tensors in experts.items():
        views[expert] = {}
        for name, tensor in tensors.items():
            views[expert][name] = flat[begin : begin + tensor.numel()].view(tensor.shape)
            begin += rounded_up(tensor.numel(), ALIGNMENT)
    return views
