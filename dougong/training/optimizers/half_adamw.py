"""AdamW whose moments are kept in bfloat16: half of their memory.

The update is computed in float32, by the same fused kernel, of moments that are made wide for it
and rounded to nearest, ties to even, behind it. A moment that decays by less than half of
bfloat16's last place would stay where it is for ever; the job file's rules refuse such betas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from dougong.job.optimizers.adamw import ADAMW, AdamW
from dougong.job.optimizers.declaration import WIDE_AT_ONCE
from dougong.job.optimizers.groups import TensorRates
from dougong.training.optimizers.base import NO_PIECES, Shapes, rates_of


class HalfAdamW:
    """torch's AdamW on float32 masters, with both moments in bfloat16; weight decay on matrices
    only. The moments of a tensor exist from its first update on."""

    declaration = ADAMW

    def __init__(
        self, settings: AdamW, masters: Mapping[str, Tensor], shapes: Shapes = NO_PIECES
    ) -> None:
        self._settings, self._shapes = settings, shapes
        self._masters = {n: masters[n] for n in sorted(masters)}
        self._state: dict[str, dict[str, Tensor]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that this worker trains."""
        return tuple(self._masters)

    @property
    def state_dtype(self) -> torch.dtype:
        return torch.bfloat16

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Update the masters in place from their float32 gradients."""
        alike: dict[TensorRates, list[str]] = {}
        for name in gradients:
            rates = rates_of(self._settings.rates, name, self._masters, self._shapes)
            alike.setdefault(rates, []).append(name)
        for rates, names in alike.items():
            for few in _pieces(names, self._masters):
                self._update(few, gradients, rate * rates.factor, rates.weight_decay)

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(state kind, tensor name, value) of every tensor that has been updated; `step` counts its
        updates."""
        for name in self._masters:
            for kind, value in self._state.get(name, {}).items():
                yield kind, name, value

    def load(self, kind: str, name: str, value: Tensor) -> None:
        """Put back one value that `state` gave. Moments that come in float32, as from another
        program, are rounded."""
        dtype = torch.float32 if kind == "step" else torch.bfloat16
        loaded = value.to(self._masters[name].device, dtype, copy=True)
        self._state.setdefault(name, {})[kind] = loaded

    def _update(
        self, names: Sequence[str], gradients: Mapping[str, Tensor], rate: float, decay: float
    ) -> None:
        """Of some tensors that are few, or small, together."""
        states = [self._state_of(name) for name in names]
        first = [state["exp_avg"] for state in states]
        second = [state["exp_avg_sq"] for state in states]
        wide_first = [half.float() for half in first]
        wide_second = [half.float() for half in second]
        settings = self._settings
        adamw(
            [self._masters[name] for name in names],
            [gradients[name] for name in names],
            wide_first,
            wide_second,
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=settings.betas[0],
            beta2=settings.betas[1],
            lr=rate,
            weight_decay=decay,
            eps=settings.eps,
            maximize=False,
        )
        torch._foreach_copy_([*first, *second], [*wide_first, *wide_second])

    def _state_of(self, name: str) -> dict[str, Tensor]:
        if name not in self._state:
            master = self._masters[name]
            self._state[name] = {
                "step": torch.zeros((), device=master.device),
                "exp_avg": torch.zeros_like(master, dtype=torch.bfloat16),
                "exp_avg_sq": torch.zeros_like(master, dtype=torch.bfloat16),
            }
        return self._state[name]


def _pieces(names: Sequence[str], masters: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The names in their order, as many as have so many numbers together."""
    few: list[str] = []
    size = 0
    for name in names:
        numel = masters[name].numel()
        if few and size + numel > WIDE_AT_ONCE:
            yield few
            few, size = [], 0
        few.append(name)
        size += numel
    if few:
        yield few
