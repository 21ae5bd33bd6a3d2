"""Hooks for what a layer's graph saves, in a thread in which several forwards take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from greenlet import getcurrent, greenlet
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dougong.parallel.segments.repeats import LayerRepeats


class AskedExperts(Protocol):
    """What a layer asks its experts: `flight.ExpertsCall`. Shapes as there."""

    site: int
    index: Tensor
    weights: Tensor
    output: Tensor | None


class Hooks(Protocol):
    """Take what a graph saves, and give it back."""

    def pack(self, tensor: Tensor) -> Any:
        """In place of a tensor that an operator saves for its backward."""
        ...

    def unpack(self, packed: Any) -> Tensor:
        """The backward wants it."""
        ...

    def answered(self, call: AskedExperts) -> None:
        """The experts have answered a call of the forward that is running."""
        ...


class LayerHooks:
    """Of one flight, or of a layer that runs again: the hooks of the layer that is running.

    `repeats`: who is told what comes of a layer that runs again; None where one is running again.

    torch keeps hooks on a stack of the thread, while flights take turns in one thread. So a flight
    that pauses takes its own off (`aside`) and puts them back when it goes on.
    """

    def __init__(self, repeats: LayerRepeats | None) -> None:
        self._open: tuple[Hooks, saved_tensors_hooks] | None = None
        self.repeats = repeats

    @staticmethod
    def here() -> LayerHooks | None:
        """Of the greenlet that runs this; None: nothing is recomputed here."""
        return getattr(getcurrent(), "layer_hooks", None)

    def belongs_to(self, runs: greenlet) -> None:
        """What runs there is recomputed."""
        runs.layer_hooks = self

    @property
    def is_open(self) -> bool:
        """Whether a layer is running."""
        return self._open is not None

    @contextmanager
    def opened(self, hooks: Hooks) -> Iterator[None]:
        """Inside, a layer runs: what its graph saves goes to these hooks."""
        on_stack = saved_tensors_hooks(hooks.pack, hooks.unpack)
        on_stack.__enter__()
        self._open = hooks, on_stack
        try:
            yield
        finally:
            self._open = None
            on_stack.__exit__()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, others run in this thread."""
        if self._open is None:
            yield
            return
        _, on_stack = self._open
        on_stack.__exit__()
        try:
            yield
        finally:
            on_stack.__enter__()

    def answered(self, call: AskedExperts) -> None:
        """The experts have answered a call, and the model goes on."""
        if self._open is not None:
            self._open[0].answered(call)
