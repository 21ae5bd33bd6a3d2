"""How many bytes of tensors are alive, counted as operators make them and storages go."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While entered: `now`, the bytes of what operators of this thread have made and is still
    there, whoever holds it (a graph, too), and their `peak`."""

    def __init__(self, on_meta: bool = False) -> None:
        """`on_meta`: tensors without memory count, and others do not."""
        super().__init__()
        self.now, self.peak = 0, 0
        self._on_meta = on_meta
        self._alive: dict[int, int] = {}
        self._left_out: list[UntypedStorage] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and value.is_meta == self._on_meta:
                self._note(value)
        return made

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """These do not count, nor views of them, such as a model's weights."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._left_out.append(storage)
            self._alive[id(storage)] = 0

    def begin(self) -> None:
        """The peak is what is alive now."""
        self.peak = self.now

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = id(storage)
        if place in self._alive:
            return
        self._alive[place] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        # torch keeps a storage's Python object, and so its number, as long as the storage itself.
        weakref.finalize(storage, self._gone, place)

    def _gone(self, place: int) -> None:
        self.now -= self._alive.pop(place)
