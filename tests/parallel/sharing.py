"""A model that uses its weights in more than one place, and not in the same places for every micro-batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import linear

SOMETIMES = "model.layers.1.self_attn.o_proj.weight"
"""Of a qwen3_moe of three layers that was changed by `share_weights`: some micro-batches do not reach it."""


def share_weights(model: Any) -> list[bool]:
    """Change a qwen3_moe of three layers in place: the first layer uses its output projection twice, the last one uses
    it too, and the one between them takes the last layer's in place of its own where the data says so.

    So one weight is used in several segments by all micro-batches, and another by some, whose gradient is complete
    earlier for those that are later. Returns a list that grows by each forward's choice: whether `SOMETIMES` was used.
    """
    choices: list[bool] = []
    first, middle, last = (layer.self_attn.o_proj for layer in model.model.layers)

    def twice(x: Tensor) -> Tensor:
        return linear(linear(x, first.weight).tanh(), first.weight)

    def either(x: Tensor) -> Tensor:
        choices.append(float(x.detach().sum()) > 0)
        return linear(x, middle.weight if choices[-1] else last.weight)

    def both(x: Tensor) -> Tensor:
        return linear(x, last.weight) + linear(x, first.weight)

    first.forward, middle.forward, last.forward = twice, either, both
    return choices
