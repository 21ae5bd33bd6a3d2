"""Calls that keep to no limit of their own, such as into a name server or a dead mount."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

_Answer = TypeVar("_Answer")


def answer_within(limit_s: float, ask: Callable[[], _Answer]) -> _Answer:
    """What it returns or raises, by a thread of its own. futures.TimeoutError after the limit; the
    thread is left to itself then."""
    found: futures.Future[_Answer] = futures.Future()

    def run() -> None:
        try:
            found.set_result(ask())
        except Exception as error:  # whatever it is, the asker is told
            found.set_exception(error)

    threading.Thread(target=run, name="dougong-ask", daemon=True).start()
    return found.result(limit_s)
