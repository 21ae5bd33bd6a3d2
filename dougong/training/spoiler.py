"""A broken device, rehearsed: what a drill does to the numbers of one step, once, on one worker.

On a worker of any role: each sends messages in every step (to itself, where it is alone), and owns
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from dougong.parallel.comm.exchange import Messages
from dougong.parallel.comm.message import TensorMessage
from dougong.parallel.schedules.operation import CallKey, MessageKind
from dougong.training.hooks import StepHook
from dougong.training.step import StepParts

_BIT = 20
"""High in the mantissa of a float32, of a bfloat16 in its exponent: it is seen, and no overflow."""

_ACTIVATIONS = (MessageKind.ROWS, MessageKind.OUTPUTS)
_WHOLE_NUMBERS = {4: torch.int32, 2: torch.int16}


def spoil(parts: StepParts, name: str) -> None:
    """Call as a step begins: in this step the fault of that name happens to this worker's numbers.
    KeyError for a fault of another kind."""
    _ACTS[name](parts)


def flip_bit(tensor: Tensor) -> None:
    """Another bit in the first number, in place."""
    size = tensor.element_size()
    numbers = tensor.detach().view(_WHOLE_NUMBERS[size]).view(-1)
    numbers[0] ^= 1 << (_BIT - 8 * (4 - size))


def _set_nan(tensor: Tensor) -> None:
    tensor.detach().view(-1)[0] = float("nan")


def _flip_weight(parts: StepParts) -> None:
    replica = parts.share.replica
    name = next(name for name in sorted(replica.masters) if name in parts.share.optimizer.names)
    with torch.no_grad():
        flip_bit(replica.masters[name])
        replica.refresh()


def _flip_moment(parts: StepParts) -> None:
    """Nothing where no tensor has been updated yet: there is no moment to spoil."""
    for _, _, value in parts.share.optimizer.state():
        if value.dim() and value.is_floating_point():
            flip_bit(value)
            return


class _FlippedGradient(StepHook):
    """Once, before anybody looks at the gradients."""

    def __init__(self, parts: StepParts) -> None:
        self._hooks = parts.hooks

    def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
        self._hooks.hooks = tuple(hook for hook in self._hooks.hooks if hook is not self)
        if gradients:
            flip_bit(gradients[min(gradients)])


def _flip_gradient(parts: StepParts) -> None:
    parts.hooks.hooks = (_FlippedGradient(parts), *parts.hooks.hooks)


def _in_activation(change: Callable[[Tensor], None]) -> Callable[[StepParts], None]:
    """The first activation that this worker hands over in the step, where it lies."""

    def act(parts: StepParts) -> None:
        def watch(kind: MessageKind, key: CallKey, messages: Messages) -> Messages:
            for message in _with_rows(messages.values()) if kind in _ACTIVATIONS else ():
                parts.exchange.watch = None
                change(message.parts[0])
                break
            return messages

        parts.exchange.watch = watch

    return act


def _flip_message(parts: StepParts) -> None:
    """What arrives is another number than what was sent."""

    def watch(kind: MessageKind, key: CallKey, messages: Messages) -> Messages:
        changed = dict(messages)
        for rank, message in messages.items():
            for _ in _with_rows([message]):
                parts.exchange.watch = None
                first = message.parts[0].clone()
                flip_bit(first)
                changed[rank] = TensorMessage([first, *message.parts[1:]], message.works)
                return changed
        return messages

    parts.exchange.watch = watch


def _with_rows(messages: Iterable[TensorMessage]) -> list[TensorMessage]:
    """Those that begin with numbers."""
    found = []
    for message in messages:
        if message.parts and message.parts[0].is_floating_point() and message.parts[0].numel():
            found.append(message)
    return found


_ACTS: Mapping[str, Callable[[StepParts], None]] = {
    "nan": _in_activation(_set_nan),
    "flip_activation": _in_activation(flip_bit),
    "flip_message": _flip_message,
    "flip_weight": _flip_weight,
    "flip_gradient": _flip_gradient,
    "flip_moment": _flip_moment,
}
