"""What every optimizer's rule is to the step: the interface between the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from dougong.job.optimizers.declaration import OptimizerDeclaration
from dougong.job.optimizers.groups import GroupRates, TensorRates
from dougong.parallel.pieces import tensor_of

Shapes = Mapping[str, tuple[int, ...]]
"""Of whole tensors, by the names of their pieces."""
NO_PIECES: Shapes = MappingProxyType({})


def num_dimensions(name: str, masters: Mapping[str, Tensor], shapes: Shapes) -> int:
    """Of the tensor that is owned by this name, or of which that is a piece."""
    shape = shapes.get(name)
    return masters[name].dim() if shape is None else len(shape)


def rates_of(
    rates: GroupRates, name: str, masters: Mapping[str, Tensor], shapes: Shapes
) -> TensorRates:
    """Of an owned tensor, or of a piece as of the whole one."""
    return rates.of(tensor_of(name), num_dimensions(name, masters, shapes))


class Optimizer(Protocol):
    """The update rule over the named tensors that one worker owns.

    Each tensor is float32, and whole or, where the declaration says that it is updated element by
    element, a flat piece; what follows from the shape of the whole one is asked of `Shapes`. What a
    rule makes of one may not depend on which other tensors are there: then no bit depends on who
    its neighbours are.
    """

    @property
    def declaration(self) -> OptimizerDeclaration:
        """What it says of itself below the schema: above all, the kinds of its state."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What this worker trains, in the order of names."""
        ...

    @property
    def state_dtype(self) -> torch.dtype:
        """Of what it keeps of a tensor's own shape."""
        ...

    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Update the tensors in place from their float32 gradients. A tensor without a gradient
        stays as it is. The gradients belong to the caller again once this returns."""
        ...

    def state(self) -> Iterator[tuple[str, str, Tensor]]:
        """(state kind, tensor name, value) of every tensor that has been updated; kinds are the
        declaration's."""
        ...

    def load(self, kind: str, name: str, value: Tensor) -> None:
        """Put back one value that `state` gave."""
        ...
