"""A flight's hooks stand on the thread's stack while its layer runs, and at no other time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dougong.parallel.segments.layer_hooks import LayerHooks
from greenlet import greenlet
from tests.parallel.segments.layered import num_hooks_off
from torch import Tensor


class Counting:
    """Hooks that count."""

    def __init__(self) -> None:
        self.packed, self.calls = 0, 0

    def pack(self, tensor: Tensor) -> Tensor:
        self.packed += 1
        return tensor

    def unpack(self, packed: Any) -> Tensor:
        assert isinstance(packed, Tensor)
        return packed

    def answered(self, call: object) -> None:
        self.calls += 1


def save_one() -> None:
    torch.ones(2, requires_grad=True).exp()


def test_they_are_of_a_greenlet_and_of_its_open_layer_alone() -> None:
    assert LayerHooks.here() is None
    hooks, counting = LayerHooks(None), Counting()

    def run() -> None:
        assert LayerHooks.here() is hooks and not hooks.is_open
        hooks.answered(None)  # type: ignore[arg-type]
        with hooks.opened(counting):
            assert hooks.is_open
            save_one()
            with hooks.aside():
                greenlet.getcurrent().parent.switch()  # type: ignore[attr-defined]
            save_one()
            hooks.answered(None)  # type: ignore[arg-type]
        save_one()

    other = greenlet(run)
    hooks.belongs_to(other)
    other.switch()
    assert num_hooks_off() and counting.packed == 1
    save_one()
    assert counting.packed == 1 and LayerHooks.here() is None
    other.switch()
    assert other.dead and counting.packed == 2 and counting.calls == 1 and num_hooks_off()


def test_nothing_stays_on_the_stack_after_an_error_or_when_a_greenlet_is_given_up() -> None:
    hooks, counting = LayerHooks(None), Counting()

    def run(fails: bool) -> None:
        with hooks.opened(counting), hooks.aside():
            if fails:
                raise ValueError
            greenlet.getcurrent().parent.switch()  # type: ignore[attr-defined]

    with pytest.raises(ValueError):
        greenlet(run).switch(True)
    save_one()
    assert counting.packed == 0 and not hooks.is_open
    paused = greenlet(run)
    paused.switch(False)
    paused.throw()
    save_one()
    assert counting.packed == 0 and not hooks.is_open


def test_aside_with_no_open_layer_does_nothing() -> None:
    with LayerHooks(None).aside():
        assert num_hooks_off()
