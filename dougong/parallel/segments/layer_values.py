"""What a layer is given and what it gives, kept without a graph: to run it again, and to tell
whether it came out the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dougong.errors import ModelError

INSTEAD = "set recompute: none"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer was given, or gave, without its graph, as it was then."""

    tensor: Tensor
    with_gradient: bool
    version: int

    @staticmethod
    def of(tensor: Tensor) -> LayerTensor:
        return LayerTensor(tensor.detach(), tensor.requires_grad, tensor._version)

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody has written into it since."""
        return self.tensor._version == self.version

    def again(self) -> Tensor:
        """To compute with once more: a leaf, so that the same operators save the same tensors."""
        return self.tensor.detach().requires_grad_(self.with_gradient)


@dataclass(frozen=True)
class LayerArguments:
    """A layer's arguments, each tensor a `LayerTensor`. Lists and mappings are copies: what a
    layer puts into them does not come twice."""

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    inputs: tuple[LayerTensor, ...]

    @staticmethod
    def of(args: Sequence[Any], named: Mapping[str, Any]) -> LayerArguments:
        inputs: list[LayerTensor] = []

        def keep(tensor: Tensor) -> LayerTensor:
            inputs.append(LayerTensor.of(tensor))
            return inputs[-1]

        kept_args, kept_named = _mapped((tuple(args), dict(named)), Tensor, keep)
        return LayerArguments(kept_args, kept_named, tuple(inputs))

    def again(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """To run with once more."""
        found: tuple[tuple[Any, ...], dict[str, Any]]
        found = _mapped((self.args, self.named), LayerTensor, LayerTensor.again)
        return found

    def refuse_change(self, layer: str) -> None:
        """ModelError where what the layer was given has been changed in place, by itself or by
        the model behind it."""
        for one in self.inputs:
            if not one.is_unchanged:
                raise ModelError(
                    f"an input of {layer}, of shape {list(one.tensor.shape)}, is changed in place, "
                    f"so that layer cannot run again (recompute: layers); {INSTEAD}"
                )


class LayerWeights:
    """The weights and buffers of a layer, which its forward may not change: twice is not once."""

    def __init__(self, layer: str, module: nn.Module) -> None:
        self._layer = layer
        self._places: list[tuple[Any, str, str]] = []
        for path, owner in module.named_modules():
            for table in (owner._parameters, owner._buffers):
                self._places += [(table, key, f"{path}.{key}".lstrip(".")) for key in table]

    def now(self) -> list[tuple[int, int]]:
        """Which tensors they are, and how often each has been changed."""
        found = []
        for table, key, _ in self._places:
            tensor = table.get(key)
            found.append((0, 0) if tensor is None else (id(tensor), tensor._version))
        return found

    def refuse_change(self, before: Sequence[tuple[int, int]]) -> None:
        """ModelError where one of them is not as it was."""
        now = self.now()
        if now == before:
            return
        number = next(n for n, pair in enumerate(zip(now, before, strict=True)) if len({*pair}) > 1)
        raise ModelError(
            f"{self._layer} changes its {self._places[number][2]} in its forward, so it cannot run "
            f"again (recompute: layers): it would be changed twice; {INSTEAD}"
        )


def bits_differ(one: Tensor, other: Tensor) -> Tensor:
    """Whether two tensors differ in a bit, as a bool on their device. NaN equals itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return torch.ones((), dtype=torch.bool, device=one.device)
    integers = _INTEGERS.get(one.element_size(), one.dtype)
    return (one.detach().view(integers) != other.view(integers)).any()


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The value with everything of a kind changed, in lists, tuples and dicts too."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        changed = copy.copy(value)  # of its own class, which need not be made as a dict is
        for key, one in value.items():
            changed[key] = _mapped(one, kind, change)
        return changed
    if isinstance(value, list | tuple):
        entries = [_mapped(one, kind, change) for one in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of a value, in their order: of lists, tuples and dicts too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
