"""Initial values by tensor name: transformers' own initialisation code, with our random numbers
under it.

Why values by name: any worker can then make any tensor, in any order, and gets the same bits. So a
plan may move an expert, and a recovery from the very start needs no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dougong.ops import counter_rng


class NamedInit(TorchDispatchMode):
    """While active, `normal_` and `uniform_` fill from counter-based streams keyed by (seed, tensor
    name).

    `torch.randn`'s bits depend on the CPU's vector width and on what was drawn before; these do not
    (`docs/design/determinism.md`). A scratch tensor without a name is keyed by its place in the
    order of such fills, which is the model's own. `unfilled`: names of tensors that stay as they
    are, since other values will be put there. `absent`: tensors on meta that are made elsewhere;
    scratch tensors for them keep their places in the order.
    """

    def __init__(
        self,
        seed: int,
        names: Mapping[Tensor, str],
        unfilled: Collection[str] = (),
        absent: Collection[Tensor] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._names = {t.untyped_storage().data_ptr(): n for t, n in names.items() if t.numel()}
        self._unfilled = frozenset(unfilled)
        self._absent = {tensor.untyped_storage()._cdata for tensor in absent}
        self._num_unnamed = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        fill = FILLS.get(func)
        if fill is None:
            return func(*args, **(kwargs or {}))
        target: Tensor = args[0]
        if target.is_meta or target.numel() == 0:
            if self._absent and target.untyped_storage()._cdata not in self._absent:
                self._num_unnamed += 1
            return target
        name = self._name(target)
        if name in self._unfilled:
            return target
        # Fills may take their arguments by place or by name.
        options = dict(zip(fill.names, args[1:], strict=False)) | (kwargs or {})
        values = fill.draw(tuple(target.shape), self._seed, name, options)
        return target.copy_(values.to(target.dtype))

    def _name(self, target: Tensor) -> str:
        # Initialisation writes through views and `.data`, so a tensor is known by its memory.
        name = self._names.get(target.untyped_storage().data_ptr())
        if name is None:
            self._num_unnamed += 1
            name = f"unnamed/{self._num_unnamed}"
        return name


@dataclass(frozen=True)
class _Fill:
    """A random fill of torch: the names of its arguments, and how it is drawn here from (shape,
    seed, name, arguments)."""

    names: tuple[str, str]
    draw: Callable[[tuple[int, ...], int, str, dict[str, Any]], Tensor]


def _normal(shape: tuple[int, ...], seed: int, name: str, options: dict[str, Any]) -> Tensor:
    values = torch.from_numpy(counter_rng.normal(shape, seed, name))
    return values.mul_(options.get("std", 1.0)).add_(options.get("mean", 0.0))


def _uniform(shape: tuple[int, ...], seed: int, name: str, options: dict[str, Any]) -> Tensor:
    low, high = options.get("from", 0.0), options.get("to", 1.0)
    return torch.from_numpy(counter_rng.uniform(shape, seed, name)).mul_(high - low).add_(low)


FILLS = {
    torch.ops.aten.normal_.default: _Fill(("mean", "std"), _normal),
    torch.ops.aten.uniform_.default: _Fill(("from", "to"), _uniform),
}
