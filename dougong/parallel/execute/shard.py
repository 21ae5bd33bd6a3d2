"""The experts that one worker owns: their outputs, and the gradients of their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
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


class Keep(Enum):
    """What stays of a batch's forward until its backward; each has the same bits.

    Rows R of H values with experts of inner size I, in values: nothing (there is no backward);
    R H, the rows, and the forward runs again; what the operator saves (of SwiGLU R H + 3 R I at
    most), and the last product runs again for the outputs; the outputs, R H more.
    """

    NOTHING = 0
    ROWS = 1
    ACTIVATIONS = 2
    OUTPUTS = 3


@dataclass
class _ForBackward:
    """Of one batch. `saved`: the operator's own; `outputs`, `rows`: where they are kept."""

    blocks: Sequence[Block]
    saved: Any = None
    rows_RH: Tensor | None = None
    outputs_RH: Tensor | None = None


class ExpertShard:
    """Owned experts of every site. `tensors[site][expert]` are compute copies; gradients are
    float32, of those parameters that are `trained` at a site (None: of all).

    The weight gradients of a micro-batch are added in the order of the operator, micro-batches in
    the order of the calls: the same on every layout, since an expert's worker gets the rows of all
    lanes.
    """

    def __init__(
        self,
        op: ExpertOp,
        tensors: Sequence[Expert],
        trained: Sequence[Collection[str]] | None = None,
    ) -> None:
        self._op = op
        self._tensors = tensors
        self._kept: dict[CallKey, _ForBackward] = {}
        self._rest: dict[CallKey, AddWeights] = {}
        learning = tensors
        if trained is not None:
            learning = [_only(site, names) for site, names in zip(tensors, trained, strict=True)]
        self._flat = [_room_for(site) for site in learning]
        pairs = zip(self._flat, learning, strict=True)
        self.gradients = [_views_like(flat, site) for flat, site in pairs]

    def zero_gradients(self) -> None:
        """Start a step: all gradients are zero."""
        for flat in self._flat:
            flat.zero_()

    def forward(
        self,
        key: CallKey,
        rows_RH: Tensor,
        blocks: Sequence[Block],
        keep: Keep = Keep.ACTIVATIONS,
    ) -> Tensor:
        """The outputs of a batch's rows, [R, H]."""
        outputs_RH = torch.empty_like(rows_RH)
        saved = self._run(key[0], rows_RH, blocks, outputs_RH)
        if keep is Keep.ROWS:
            self._kept[key] = _ForBackward(blocks, rows_RH=rows_RH)
        elif keep is Keep.ACTIVATIONS:
            self._kept[key] = _ForBackward(blocks, saved)
        elif keep is Keep.OUTPUTS:
            self._kept[key] = _ForBackward(blocks, saved, outputs_RH=outputs_RH)
        return outputs_RH

    def backward(self, key: CallKey, doutputs_RH: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [R, H] of the rows of `forward`, from those of its outputs, and the outputs
        [R, H] as they were. `add_weights` must follow."""
        kept, site = self._kept.pop(key), key[0]
        drows_RH = torch.empty_like(doutputs_RH)
        outputs_RH, saved, again_RH = kept.outputs_RH, kept.saved, None
        if outputs_RH is None:
            outputs_RH = torch.empty_like(doutputs_RH)
            if kept.rows_RH is not None:
                saved = self._run(site, kept.rows_RH, kept.blocks, outputs_RH)
            else:
                again_RH = outputs_RH
        self._rest[key] = nothing_left
        if kept.blocks:
            tensors, into = self._tensors[site], self.gradients[site]
            self._rest[key] = self._op.backward(
                doutputs_RH, saved, tensors, into, drows_RH, again_RH
            )
        return drows_RH, outputs_RH

    def _run(self, site: int, rows_RH: Tensor, blocks: Sequence[Block], outputs_RH: Tensor) -> Any:
        """The operator's forward; what its backward needs."""
        if not blocks:
            return None
        return self._op.forward(rows_RH, blocks, self._tensors[site], outputs_RH)

    def add_weights(self, key: CallKey) -> None:
        """Add the gradients of the weights of a batch, after its `backward`."""
        self._rest.pop(key)()


def _only(experts: Expert, names: Collection[str]) -> dict[int, dict[str, Tensor]]:
    found = {}
    for expert, tensors in experts.items():
        found[expert] = {name: tensor for name, tensor in tensors.items() if name in names}
    return found


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
