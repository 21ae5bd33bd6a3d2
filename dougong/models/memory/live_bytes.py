"""How many bytes of tensors are alive, counted as operators make them and storages go."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While entered: `now`, the bytes of what operators of this thread have made and is still
    there, whoever holds it (a graph, too), and their `peak`."""

    def __init__(self, on_meta: bool = False) -> None:
        """`on_meta`: tensors without memory count, and others do not."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self._on_meta = on_meta
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(tensor.untyped_storage()) for tensor in self._counted((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in self._counted(made):
            # A view of what was given, or what was written in place, is not made here.
            if id(tensor.untyped_storage()) not in given:
                self._note(tensor)
        return made

    def begin(self) -> None:
        """The peak is what is alive now."""
        self.peak = self.now

    def _counted(self, values: Any) -> list[Tensor]:
        tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
        return [tensor for tensor in tensors if tensor.is_meta == self._on_meta]

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
