"""Calls without a limit of their own, under one."""

from __future__ import annotations

import threading
from concurrent import futures

import pytest
from dougong.control.bounded import answer_within


def test_what_it_returns_or_raises_comes_back_and_a_hang_does_not_hold_anybody_up() -> None:
    assert answer_within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        answer_within(5, lambda: 1 // 0)
    held = threading.Event()
    with pytest.raises(futures.TimeoutError):
        answer_within(0.05, held.wait)
    held.set()
