"""AdamW in the memory of a worker's machine: gradients travel there, new weights travel back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dougong.accelerators.staging import HostLink
from dougong.deepspeed.cpu_adam import AdamNumbers, AdamRates, CpuAdam
from dougong.job.optimizers.adamw import ADAMW, AdamW
from dougong.training.optimizers.base import NO_PIECES, Shapes, rates_of


class HostAdamW:
    """AdamW by DeepSpeed's CPU Adam on float32 masters on the CPU; weight decay on matrices only.

    Each tensor's bits depend on it alone. The moments of a tensor exist from its first update on.
    """

    declaration = ADAMW

    def __init__(
        self,
        settings: AdamW,
        masters: Mapping[str, Tensor],
        library: Any,
        shapes: Shapes = NO_PIECES,
    ) -> None:
        """`masters`: contiguous, on the CPU; `library`: DeepSpeed's `cpu_adam`."""
        assert all(t.device.type == "cpu" for t in masters.values()), "masters lie on the host"
        self._settings, self._shapes = settings, shapes
        self._masters = {n: masters[n] for n in sorted(masters)}
        self._adam = CpuAdam(library, settings.betas, settings.eps)
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._counts: dict[str, int] = {}
        self._link: HostLink | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that this worker trains."""
        return tuple(self._masters)

    @property
    def state_dtype(self) -> torch.dtype:
        return torch.float32

    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Update the masters in place from their float32 gradients, on whatever device."""
        if not gradients:
            return
        names = list(gradients)
        for name in names:
            self._counts[name] = self._counts.get(name, 0) + 1
        if self._link is None:
            self._link = HostLink(gradients[names[0]].device)
        arriving = self._link.pieces(
            [gradients[name].contiguous() for name in names], self._link.stream.mark()
        )
        for piece in arriving:
            self._update(names[piece.number], piece.begin, piece.data, rate)

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(state kind, tensor name, value) of every tensor that has been updated; `step` counts its
        updates."""
        for name in self._masters:
            if name in self._counts:
                first, second = self._moments_of(name)
                yield "step", name, torch.tensor(float(self._counts[name]))
                yield "exp_avg", name, first
                yield "exp_avg_sq", name, second

    def load(self, kind: str, name: str, value: Tensor) -> None:
        """Put back one value that `state` gave."""
        if kind == "step":
            self._counts[name] = int(value)
            return
        moment = self._moments_of(name)[("exp_avg", "exp_avg_sq").index(kind)]
        moment.copy_(value)

    def _update(self, name: str, begin: int, data: Tensor, rate: float) -> None:
        """`data`: the bytes of a piece of the tensor's gradient, from its byte `begin` on."""
        master = self._masters[name]
        gradient = data.view(torch.float32)
        first = begin // master.element_size()
        ours = slice(first, first + len(gradient))
        weight, exp_avg, exp_avg_sq = (
            tensor.view(-1)[ours] for tensor in (master, *self._moments_of(name))
        )
        rates = rates_of(self._settings.rates, name, self._masters, self._shapes)
        of_step = AdamRates(rate * rates.factor, rates.weight_decay, self._counts[name])
        numbers = AdamNumbers(weight, gradient, exp_avg, exp_avg_sq)
        self._adam.update(numbers, of_step)

    def _moments_of(self, name: str) -> tuple[Tensor, Tensor]:
        if name not in self._moments:
            master = self._masters[name]
            self._moments[name] = (torch.zeros_like(master), torch.zeros_like(master))
        return self._moments[name]
