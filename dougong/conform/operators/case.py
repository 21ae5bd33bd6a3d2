"""One operator, forward and backward: what is computed, and from what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dougong.conform.judge import Exactness

Compute = Callable[..., Any]
"""compute(*inputs): a tensor, or several."""

ALIGNMENT = 512
"""Bytes: dougong begins every buffer that a product reads at a multiple of them."""
FLOATS = (torch.float32, torch.bfloat16)


class Draw:
    """Inputs of fixed values, made on the processor; floats in float64."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(14)

    def values(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Tensor:
        """Spread evenly between two bounds."""
        drawn = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return drawn * (high - low) + low

    def ids(self, *shape: int, below: int) -> Tensor:
        """Whole numbers (int64) in 0 .. below - 1, with repeats."""
        return torch.randint(below, shape, generator=self._generator)

    def order(self, count: int) -> Tensor:
        """The numbers 0 .. count - 1 (int64), each once, mixed."""
        return torch.randperm(count, generator=self._generator)


@dataclass(frozen=True)
class Case:
    """One operator to judge.

    judges: the kernel by which a device has it in one piece (`aten::_softmax`; the beginning of a
    name counts, too); trained: numbers of the inputs that get a gradient; backward: what may be
    asked of gradients (None: the same as of values); rows: numbers of the inputs whose first
    dimension goes over rows, each of which gives one row of the output (none: it is not computed
    row by row); by_row: a row must not depend on how many there are, either, since a wave is
    computed at once; composed: the same of plain operators, where this one may be fused; exact: by
    which the exact values are computed in float64 (None: by the same); spread: inputs may lie
    apart in memory.
    """

    name: str
    judges: str
    compute: Compute
    inputs: Callable[[Draw], tuple[Tensor, ...]]
    exactness: Exactness
    trained: tuple[int, ...] = ()
    backward: Exactness | None = None
    rows: tuple[int, ...] = ()
    by_row: bool = False
    composed: Compute | None = None
    exact: Compute | None = None
    dtypes: tuple[torch.dtype, ...] = FLOATS
    times: int = 3
    spread: bool = True

    @property
    def of_gradients(self) -> Exactness:
        return self.backward or self.exactness


def in_float32(compute: Callable[..., Tensor]) -> Compute:
    """As the families' own plain forms: in float32 where values are of half precision."""

    def widened(*tensors: Tensor) -> Tensor:
        dtype = tensors[0].dtype
        return compute(*[_widened(tensor) for tensor in tensors]).to(dtype)

    return widened


def _widened(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def given(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """The inputs on the processor, floats in `dtype`."""
    return [_cast(tensor, dtype) for tensor in case.inputs(Draw())]


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.dtype == torch.float64 else tensor


def placed(inputs: Sequence[Tensor], device: torch.device, offset: int = 0) -> list[Tensor]:
    """Copies on a device, each so many bytes behind a multiple of `ALIGNMENT`: a processor's own
    memory begins anywhere."""
    return [_at(tensor.to(device), offset) for tensor in inputs]


def _at(tensor: Tensor, offset: int) -> Tensor:
    size = tensor.element_size()
    buffer = tensor.new_zeros(tensor.numel() + 2 * ALIGNMENT // size)
    first = (-buffer.data_ptr() % ALIGNMENT + offset) // size
    flat = buffer[first : first + tensor.numel()]
    flat.copy_(tensor.reshape(-1))
    return flat.view(tensor.shape)


def results(case: Case, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, then the gradients of the trained inputs for fixed gradients of the outputs."""
    leaves = list(inputs)
    for number in case.trained:
        leaves[number] = leaves[number].detach().requires_grad_()
    found = case.compute(*leaves)
    outputs = list(found) if isinstance(found, tuple | list) else [found]
    reached = [output for output in outputs if output.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    if reached:
        wanted = [leaves[number] for number in case.trained]
        slopes = [cotangent(output) for output in reached]
        gradients = torch.autograd.grad(reached, wanted, slopes, allow_unused=True)
    return [*(output.detach() for output in outputs), *_zero_filled(gradients, case, leaves)]


def _zero_filled(
    gradients: Sequence[Tensor | None], case: Case, leaves: Sequence[Tensor]
) -> list[Tensor]:
    pairs = zip(gradients, case.trained, strict=False)
    return [torch.zeros_like(leaves[n]) if grad is None else grad for grad, n in pairs]


def cotangent(output: Tensor) -> Tensor:
    """Fixed gradients of an output: a row of them depends on its own number alone. They are coarse
    enough to be exact in every precision."""
    # By numpy, so that no operator is called that was not asked about.
    width = max(1, math.prod(output.shape[1:]))
    numbers = np.arange(output.numel())
    mixed = (numbers // width * 37 + numbers % width * 11) % 61
    values = torch.from_numpy((mixed - 30) / 32).view(output.shape)
    return values.to(output.device, output.dtype)
