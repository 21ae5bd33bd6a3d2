"""AdamW over the named tensors that one worker owns, and pieces of them. No bit depends on who its
neighbours are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dougong.job.optimizers.adamw import ADAMW, AdamW
from dougong.job.optimizers.groups import TensorRates
from dougong.training.optimizers.base import NO_PIECES, Shapes, rates_of


class OwnedAdamW:
    """torch's AdamW (Loshchilov and Hutter 2019) on float32 masters; weight decay on matrices only,
    unless a group says otherwise.

    The moments of a tensor exist from its first update on.
    """

    declaration = ADAMW

    def __init__(
        self, settings: AdamW, masters: Mapping[str, Tensor], shapes: Shapes = NO_PIECES
    ) -> None:
        self._masters = {n: masters[n] for n in sorted(masters)}
        self._adamw = _fused_adamw(settings, self._masters, shapes)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that this worker trains."""
        return tuple(self._masters)

    @property
    def state_dtype(self) -> torch.dtype:
        return torch.float32

    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Update the masters in place from their float32 gradients."""
        if self._adamw is None:
            return
        for name, gradient in gradients.items():
            self._masters[name].grad = gradient
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["factor"]
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(state kind, tensor name, value) of every tensor that has been updated; `step` counts its
        updates."""
        if self._adamw is None:
            return
        for name, master in self._masters.items():
            for kind, value in self._adamw.state.get(master, {}).items():
                yield kind, name, value

    def load(self, kind: str, name: str, value: Tensor) -> None:
        """Put back one value that `state` gave."""
        assert self._adamw is not None, "a worker without tensors has no state to load"
        master = self._masters[name]
        # All kinds lie beside the tensor, the count of updates too: the fused update reads it
        # there.
        loaded = value.to(master.device, torch.float32, copy=True)
        self._adamw.state[master][kind] = loaded


def _fused_adamw(
    settings: AdamW, masters: Mapping[str, Tensor], shapes: Shapes
) -> torch.optim.AdamW | None:
    """None where there is nothing to train: torch refuses an optimizer without parameters."""
    groups = _groups(settings, masters, shapes)
    if not groups:
        return None
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
    )


def _groups(settings: AdamW, masters: Mapping[str, Tensor], shapes: Shapes) -> list[dict[str, Any]]:
    """Torch's parameter groups: tensors of one rate and one decay. None is empty."""
    alike: dict[TensorRates, list[Tensor]] = {}
    for name, master in masters.items():
        rates = rates_of(settings.rates, name, masters, shapes)
        alike.setdefault(rates, []).append(master)
    groups: list[dict[str, Any]] = []
    for rates, tensors in alike.items():
        decay, factor = rates.weight_decay, rates.factor
        groups.append({"params": tensors, "weight_decay": decay, "factor": factor})
    return groups
