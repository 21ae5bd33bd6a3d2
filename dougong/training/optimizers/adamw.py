"""AdamW over the named tensors that one worker owns. Each is whole, so no bit depends on who its
neighbours are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dougong.job.optimizers.adamw import AdamW

MOMENTS = ("exp_avg", "exp_avg_sq")


class OwnedAdamW:
    """torch's AdamW (Loshchilov and Hutter 2019) on float32 masters; weight decay on matrices only.

    The moments of a tensor exist from its first update on.
    """

    def __init__(self, settings: AdamW, masters: Mapping[str, Tensor]) -> None:
        self._masters = {n: masters[n] for n in sorted(masters)}
        matrices = [t for t in self._masters.values() if t.dim() >= 2]
        others = [t for t in self._masters.values() if t.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        self._adamw = (
            torch.optim.AdamW(
                groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
            )
            if groups
            else None
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that this worker trains."""
        return tuple(self._masters)

    def has_state(self, name: str) -> bool:
        """Whether the tensor has ever been updated."""
        return self._adamw is not None and bool(self._adamw.state.get(self._masters[name]))

    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Update the masters in place from their float32 gradients."""
        if self._adamw is None:
            return
        for name, gradient in gradients.items():
            self._masters[name].grad = gradient
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(moment, tensor name, value) of every tensor that has been updated; `step` counts its
        updates."""
        if self._adamw is None:
            return
        for name, master in self._masters.items():
            for kind, value in self._adamw.state.get(master, {}).items():
                yield kind, name, value

    def load(self, kind: str, name: str, value: Tensor) -> None:
        """Put back one value that `state` gave."""
        assert self._adamw is not None
        master = self._masters[name]
        state = self._adamw.state[master]
        state[kind] = (
            value.to(torch.float32)
            if kind == "step"
            else value.to(master.device, torch.float32, copy=True)
        )


def clip_scale(norm: float, limit: float | None) -> float:
    """What gradients are multiplied with so that their global norm is at most `limit`; 1 when it
    already is."""
    return limit / norm if limit is not None and norm > limit else 1.0
