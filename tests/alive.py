"""What tensors that were made under it take while they live, on any device: counted, not guessed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AliveBytes(TorchDispatchMode):
    """Counts the bytes of storages made under it: of those that live now, and of the most that lived at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._given: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._given.update(_storages((args, kwargs)))
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if storage not in self._given:
                self._storages[storage] = storage.nbytes()
        self.peak = max(self.peak, self.count())
        return made

    def count(self) -> int:
        """Bytes that live now."""
        return sum(self._storages.values())


def _storages(values: Any) -> list[Any]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
