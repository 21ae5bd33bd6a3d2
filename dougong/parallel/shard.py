"""The experts that one worker owns: their tensors, their blocks in flight, their gradients.

Rows come per sender and per lane, sorted by expert. Each (expert, lane) block of a micro-batch is computed by itself,
and gradients are added micro-batch by micro-batch, lane by lane: what is next to a block never changes its bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.ops.expert import ExpertOp

Expert = Mapping[int, Mapping[str, Tensor]]
"""Tensors by expert and parameter."""
Key = tuple[int, int]
"""(site, micro-batch)."""


@dataclass(frozen=True)
class LaneRows:
    """One lane's rows for this worker's experts: `rows` [R, H] sorted by expert, `counts` rows per owned expert."""

    lane: int
    rows: Tensor
    counts: Sequence[int]


class ExpertShard:
    """Owned experts of every site. `tensors[site][expert]` are compute copies; gradients are float32."""

    def __init__(self, op: ExpertOp, experts: Sequence[int], tensors: Sequence[Expert]) -> None:
        self._op = op
        self._experts = tuple(experts)
        self._tensors = tensors
        self._saved: dict[Key, dict[tuple[int, int], tuple[Tensor, ...]]] = {}
        self.gradients: list[dict[int, dict[str, Tensor]]] = [
            {e: {n: torch.zeros_like(t, dtype=torch.float32) for n, t in of[e].items()} for e in self._experts}
            for of in tensors
        ]

    def zero_gradients(self) -> None:
        """Start a step: all gradients are zero."""
        for site in self.gradients:
            for tensors in site.values():
                for gradient in tensors.values():
                    gradient.zero_()

    def forward(self, key: Key, lanes: Sequence[LaneRows], keep: bool = True) -> list[Tensor]:
        """The answers to `lanes`' rows, in their order, each [R, H]. `keep`: a backward will follow."""
        saved: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        answers = []
        for lane in lanes:
            out = torch.empty_like(lane.rows)
            for expert, span in self._blocks(lane):
                kept = self._op.forward(lane.rows[span], self._tensors[key[0]][expert], out[span])
                if keep:
                    saved[lane.lane, expert] = kept
            answers.append(out)
        if keep:
            self._saved[key] = saved
        return answers

    def backward(self, key: Key, lanes: Sequence[LaneRows]) -> list[Tensor]:
        """Gradients of the rows, from `lanes`' gradients of the answers; lanes must come in ascending order."""
        saved = self._saved.pop(key)
        results = []
        for lane in lanes:
            drows = torch.empty_like(lane.rows)
            for expert, span in self._blocks(lane):
                tensors, grads = self._tensors[key[0]][expert], self.gradients[key[0]][expert]
                self._op.backward(lane.rows[span], saved.pop((lane.lane, expert)), tensors, grads, drows[span])
            results.append(drows)
        return results

    def _blocks(self, lane: LaneRows) -> list[tuple[int, slice]]:
        blocks, start = [], 0
        for expert, count in zip(self._experts, lane.counts, strict=True):
            if count:
                blocks.append((expert, slice(start, start + count)))
            start += count
        assert start == len(lane.rows), f"lane {lane.lane}: counts add up to {start}, rows are {len(lane.rows)}"
        return blocks
