"""Whether layers that ran again came out as the first time."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from dougong.errors import ModelError
from dougong.parallel.segments.layer_values import INSTEAD


class LayerRepeats:
    """What has come of the layers that ran again. One for all flights of a worker."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._flags: list[Tensor] = []

    def add(self, layer: str, differs: Tensor) -> None:
        """`differs`: whether it came out otherwise, one bool, which is not looked at yet."""
        self._names.append(layer)
        self._flags.append(differs)

    def refuse_others(self) -> None:
        """ModelError where a layer has come to other bits. Waits for the device once, and not at
        all where none ran again since the last time."""
        names, flags = self._names, self._flags
        self._names, self._flags = [], []
        differs = torch.stack(flags).tolist() if flags else []
        others = list(dict.fromkeys(itertools.compress(names, differs)))
        if others:
            more = f" (and {len(others) - 1} more layers)" if len(others) > 1 else ""
            raise other_forward(others[0] + more, "it has other bits")


def other_forward(name: str, what: str) -> ModelError:
    """The error of a layer that is not the same the second time."""
    return ModelError(
        f"{name} is another one when it runs again (recompute: layers): {what}; that needs a "
        "forward that follows from its inputs and torch's random numbers alone, by kernels with "
        f"fixed bits (determinism: layout or run), on a sound device; {INSTEAD}"
    )
