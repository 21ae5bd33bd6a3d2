"""Threads in which messages wait for their peers, beside the computation, and how whoever waits for
such a thread is freed.

Why a worker that is to outlive its peers waits for a future, and only threads wait inside of gloo:
who begins to receive from a peer in the very moment in which the connection breaks may never be
told (seen in one of some fifty deaths). It looks as if gloo found the break while it announces the
message, told whoever waits by then, and took down the new one afterwards: that call ends by its
time limit alone. Such a thread is left to itself when the generation is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from dougong.accelerators.base import enter_device
from dougong.accelerators.streams import enter_own_stream

T = TypeVar("T")


class Waits:
    """The waits of one generation for threads: all of them end when it is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Future[Any]] = set()
        self._error: BaseException | None = None

    def guard(self, future: Future[T]) -> Future[T]:
        """A future with the outcome of this one, or with the generation's end if that comes first.
        Nothing happens to `future` itself."""
        guarded: Future[T] = Future()
        with self._lock:
            if self._error is not None:
                guarded.set_exception(self._error)
                return guarded
            self._open.add(guarded)
        future.add_done_callback(lambda done: self._pass_on(done, guarded))
        return guarded

    def end(self, error: BaseException) -> None:
        """The generation is over: whoever waits, or is about to, is told this error. Any thread may
        call this, more than once."""
        with self._lock:
            self._error = self._error or error
            for guarded in self._open:
                guarded.set_exception(self._error)
            self._open.clear()

    def _pass_on(self, done: Future[T], guarded: Future[T]) -> None:
        with self._lock:
            if guarded not in self._open:
                return
            self._open.remove(guarded)
        if done.cancelled():
            guarded.cancel()
        elif done.exception() is not None:
            guarded.set_exception(done.exception())
        else:
            guarded.set_result(done.result())


class MessageThread:
    """Does one thing after another. What raises there is raised by its future."""

    def __init__(self, name: str, device: torch.device | None = None) -> None:
        """`device`: the worker's, which the thread enters first; what it does there is in a stream
        of its own."""
        begins = (_enter, (device,)) if device is not None else (None, ())
        self._pool = ThreadPoolExecutor(1, name, *begins)
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


def _enter(device: torch.device) -> None:
    enter_device(device)
    enter_own_stream(device)
