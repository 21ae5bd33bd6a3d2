"""Threads in which messages wait for their peers, beside the computation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


class MessageThread:
    """Does one thing after another. What raises there is raised by its future."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._lock = threading.Lock()
        self._open: set[Future[Any]] = set()

    def submit(self, call: Callable[..., T], *arguments: object) -> Future[T]:
        """Do it after what came before."""
        future: Future[T] = self._pool.submit(call, *arguments)
        with self._lock:
            self._open.add(future)
        future.add_done_callback(self._forget)
        return future

    def close(self) -> None:
        """Begin nothing more; returns at once."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def await_end(self, timeout_s: float) -> bool:
        """Whether all that was begun has ended within so many seconds. To be called after
        `close`."""
        with self._lock:
            left = set(self._open)
        return not wait(left, timeout_s).not_done

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)
