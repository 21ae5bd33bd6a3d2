"""What an operator on experts is: blocks of rows, waves of blocks, and the interface of every form.

A *block* is the rows of one (expert, lane, micro-batch); a *wave* is all of a worker's blocks of
one micro-batch, lane by lane. The shape of every product follows from the routing and the job
alone, never from the layout, so that determinism of the kernels from run to run is enough for the
same bits everywhere.

Legend for shape suffixes: R rows of a wave, N rows of a block or tile, H hidden size, I the
expert's inner size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

Tensors = Mapping[str, Tensor]
"""One expert's tensors, or their gradients, by parameter."""
AddWeights = Callable[[], None]
"""The rest of a backward: adds the gradients of the weights to their accumulators.

Called once; may have nothing to do. It stands apart so that the gradients of rows can leave first
(B and W of zero-bubble pipelines, Qi et al., arXiv 2401.10241).
"""
Rows = int | Literal["block", "expert"]
"""What one product takes: a block, a tile of so many rows, or all rows of an expert."""


@dataclass(frozen=True)
class Block:
    """Rows start .. start + count of a wave: those of one expert and one lane."""

    expert: int
    lane: int
    start: int
    count: int

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + self.count)


class ExpertOp(Protocol):
    """How a worker's experts compute. `blocks` come by lane, then expert; none is empty.

    `saved` is whatever a forward needs in its backward. A fused form also says its `identity`
    (`identity_of`).
    """

    def forward(
        self, x_RH: Tensor, blocks: Sequence[Block], tensors: Mapping[int, Tensors], out_RH: Tensor
    ) -> Any:
        """Write every row's output into `out_RH`; return what the backward needs."""
        ...

    def backward(
        self,
        dy_RH: Tensor,
        saved: Any,
        tensors: Mapping[int, Tensors],
        grads: Mapping[int, Tensors],
        dx_RH: Tensor,
        y_RH: Tensor | None = None,
    ) -> AddWeights:
        """Write the rows' gradients into `dx_RH`, and into `y_RH` the forward's outputs again, with
        the same bits, where they are asked for.

        Returns what adds the weights' gradients to `grads` (float32).
        """
        ...


class OneExpert(Protocol):
    """How one expert computes on rows that belong together."""

    def forward(self, x_NH: Tensor, tensors: Tensors, out_NH: Tensor) -> tuple[Tensor, ...]:
        """Write the outputs into `out_NH`; return what the backward needs."""
        ...

    def backward(
        self,
        dy_NH: Tensor,
        saved: tuple[Tensor, ...],
        tensors: Tensors,
        grads: Tensors,
        dx_NH: Tensor,
        y_NH: Tensor | None = None,
    ) -> AddWeights:
        """Write the rows' gradients into `dx_NH`, and the outputs again where they are asked for.

        Returns what adds the weights' gradients to `grads` (float32).
        """
        ...


def identity_of(op: ExpertOp) -> str:
    """Everything in an operator's form that can change its bits, in words: which form, its tiles,
    its library's version. Its own `identity`, where it has one, else its class."""
    return str(getattr(op, "identity", type(op).__name__))


def nothing_left() -> None:
    """An `AddWeights` for a backward that has added them already."""
