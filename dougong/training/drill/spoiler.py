"""A broken device, rehearsed: what a drill does to the numbers of one step, once, on one worker.

It works on a worker of any role: each owns tensors and hands over messages in every step (to
itself, where it is alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from dougong.parallel.comm.message import SplitTensor
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import Outgoing
from dougong.parallel.schedules.operation import CallKey, MessageKind
from dougong.training.optimizers.base import Optimizer

_BIT = 20
"""Of a float32, in the upper half of its mantissa: another number, and no infinity."""

_ACTIVATIONS = (MessageKind.ROWS, MessageKind.OUTPUTS)
_GRADIENTS = (MessageKind.OUTPUT_GRADIENTS, MessageKind.ROW_GRADIENTS)
_WHOLE_NUMBERS = MappingProxyType({4: torch.int32, 2: torch.int16})
_BITS_OF_A_BYTE = 8


class Weights(Protocol):
    """A worker's own tensors: float32 masters by name, and how the computing copies follow them."""

    masters: dict[str, Tensor]

    def refresh(self) -> None: ...


@dataclass(frozen=True)
class Victim:
    """One worker's numbers."""

    exchange: Exchange
    weights: Weights
    optimizer: Optimizer

    def spoil(self, name: str) -> None:
        """Call as a step begins: in this step the fault of that name happens. KeyError for a fault
        of another kind."""
        _ACTS[name](self)


def flip_bit(tensor: Tensor) -> None:
    """Another bit in the first number, in place."""
    size = tensor.element_size()
    numbers = tensor.detach().view(_WHOLE_NUMBERS[size]).view(-1)
    numbers[0] ^= 1 << (_BIT - _BITS_OF_A_BYTE * (4 - size))


def _set_nan(tensor: Tensor) -> None:
    tensor.detach().view(-1)[0] = float("nan")


def _flip_weight(victim: Victim) -> None:
    name = min(victim.optimizer.names)
    with torch.no_grad():
        flip_bit(victim.weights.masters[name])
        victim.weights.refresh()


def _flip_moment(victim: Victim) -> None:
    """Nothing where no tensor has been updated yet: there is no moment to spoil."""
    for _, _, value in victim.optimizer.state():
        if value.dim() and value.is_floating_point():
            flip_bit(value)
            return


def _in_place(
    kinds: Iterable[MessageKind], change: Callable[[Tensor], None]
) -> Callable[[Victim], None]:
    """The first numbers of these kinds that the worker hands over in the step, where they lie."""

    def act(victim: Victim) -> None:
        def watch(kind: MessageKind, key: CallKey, outgoing: Outgoing) -> Outgoing:
            place = _place_of_numbers(outgoing)
            if kind in kinds and place is not None:
                victim.exchange.watch = None
                change(outgoing.parts[place].values)
            return outgoing

        victim.exchange.watch = watch

    return act


def _flip_message(victim: Victim) -> None:
    """What arrives is another number than what was sent."""

    def watch(kind: MessageKind, key: CallKey, outgoing: Outgoing) -> Outgoing:
        place = _place_of_numbers(outgoing)
        if place is None:
            return outgoing
        victim.exchange.wire = None
        parts = list(outgoing.parts)
        parts[place] = SplitTensor(parts[place].values.clone(), parts[place].sizes)
        flip_bit(parts[place].values)
        return Outgoing(parts, outgoing.table)

    victim.exchange.wire = watch


def _place_of_numbers(outgoing: Outgoing) -> int | None:
    """Which part is the first with numbers to compute with."""
    for place, part in enumerate(outgoing.parts):
        if part.values.is_floating_point() and part.values.numel() > 0:
            return place
    return None


_ACTS: Mapping[str, Callable[[Victim], None]] = MappingProxyType(
    {
        "nan": _in_place(_ACTIVATIONS, _set_nan),
        "flip_activation": _in_place(_ACTIVATIONS, flip_bit),
        "flip_gradient": _in_place(_GRADIENTS, flip_bit),
        "flip_message": _flip_message,
        "flip_weight": _flip_weight,
        "flip_moment": _flip_moment,
    }
)
