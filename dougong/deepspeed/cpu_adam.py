"""AdamW over tensors in the machine's memory by DeepSpeed's compiled loop, so that the bits of a
number depend on that number's own history alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LANES = 64
"""Numbers in the smallest run that the library takes by vector instructions alone: four vectors of
AVX-512. What is left over it computes one by one, as the compiler sees fit."""
PIECE = 1 << 22
"""Numbers that one call of the library takes at most: some milliseconds. It keeps the interpreter
to itself meanwhile, and a worker that says nothing for long is taken for one that hangs."""


@dataclass(frozen=True)
class AdamNumbers:
    """Flat float32 tensors of one length on the CPU: weights, their gradients, and both moments.
    All but the gradients are changed."""

    weight: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    def part(self, begin: int, end: int) -> AdamNumbers:
        """Views of a range."""
        return AdamNumbers(
            self.weight[begin:end],
            self.gradient[begin:end],
            self.exp_avg[begin:end],
            self.exp_avg_sq[begin:end],
        )

    def pieces(self) -> Iterator[AdamNumbers]:
        """In their order, `PIECE` numbers each."""
        for begin in range(0, len(self.weight), PIECE):
            yield self.part(begin, begin + PIECE)


@dataclass(frozen=True)
class AdamRates:
    """Of one update: the learning rate, the decoupled weight decay (times the rate), and how many
    updates the numbers have had, this one counted."""

    rate: float
    weight_decay: float
    count: int


class CpuAdam:
    """AdamW (Loshchilov and Hutter 2019) with corrected bias. `library`: DeepSpeed's `cpu_adam`."""

    def __init__(self, library: Any, betas: tuple[float, float], eps: float) -> None:
        self._library = library
        self._betas, self._eps = betas, eps
        self._last = AdamNumbers(*(torch.zeros(LANES) for _ in range(4)))

    def update(self, numbers: AdamNumbers, rates: AdamRates) -> None:
        """One update, in place. The numbers may be a part of a tensor that begins at a multiple of
        `LANES`."""
        for piece in numbers.pieces():
            num_whole = len(piece.weight) // LANES * LANES
            if num_whole:
                self._call(piece.part(0, num_whole), rates)
            if num_whole < len(piece.weight):
                self._update_last(piece.part(num_whole, len(piece.weight)), rates)

    def _update_last(self, rest: AdamNumbers, rates: AdamRates) -> None:
        """Numbers that fill no run, in the company of others: so the vector instructions compute
        every number, and no compiler chooses how the last ones of a tensor are rounded."""
        last, size = self._last, len(rest.weight)
        for kept, given in _pairs(last, rest):
            kept[:size].copy_(given)
            kept[size:].zero_()
        self._call(last, rates)
        for kept, given in _pairs(last, rest):
            if given is not rest.gradient:
                given.copy_(kept[:size])

    def _call(self, numbers: AdamNumbers, rates: AdamRates) -> None:
        beta1, beta2 = self._betas
        # The library multiplies the powers of the betas up from call to call, and takes them by
        # `pow` after a gap: other bits after a resume, and for whoever is updated after another
        # tensor. One that was just made knows no call before.
        self._library.create_adam(
            0, rates.rate, beta1, beta2, self._eps, rates.weight_decay, True, False
        )
        self._library.adam_update(
            0,
            rates.count,
            rates.rate,
            beta1,
            beta2,
            self._eps,
            rates.weight_decay,
            True,
            numbers.weight,
            numbers.gradient,
            numbers.exp_avg,
            numbers.exp_avg_sq,
        )


def _pairs(left: AdamNumbers, right: AdamNumbers) -> Iterator[tuple[Tensor, Tensor]]:
    yield left.weight, right.weight
    yield left.gradient, right.gradient
    yield left.exp_avg, right.exp_avg
    yield left.exp_avg_sq, right.exp_avg_sq
