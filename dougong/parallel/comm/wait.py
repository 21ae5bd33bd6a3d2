"""Waits for peers: how long they last at most, and what is said when they end badly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist

from dougong.errors import PeerError
from dougong.parallel.comm.membership import Membership

T = TypeVar("T")

RankedWork = tuple[int, dist.Work]
"""A message under way, and the rank at its other end."""


class PeerWait:
    """One wait for peers, as a context: it begins when it is made and ends within its limit.

    What the library raises inside, and the end of the time, become a PeerError that says who waited
    for whom, and for what. PeerError, since as a rule the cause is what happened to the peer. So
    every call that starts or ends an operation with peers stands inside of one. A fault of this
    worker's own device is a cause, and comes out as it is.

    In a generation that is over every wait ends in a PeerError, whatever the library says: an
    operation that was aborted may look as if it had ended well, and what it has brought is nothing.

    It may be entered again, for the next of several calls that belong to one wait.
    """

    def __init__(
        self, member: Membership, peers: Iterable[int], what: str, limit: str = "message_s"
    ) -> None:
        """`what` is waited for, such as `rows of site 1, micro-batch 0, step 12`; `limit`: a field
        of `Deadlines`."""
        self._member, self._what, self._limit = member, what, limit
        self._peers = [rank for rank in peers if rank != member.rank]
        self._limit_s: float = getattr(member.deadlines, limit)
        self._begun = time.monotonic()
        self._is_entered = False

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return max(0.0, self._begun + self._limit_s - time.monotonic())

    def of(self, peers: Iterable[int]) -> PeerWait:
        """This wait, from now on for these peers: an error names them."""
        self._peers = list(peers)
        if self._is_entered:
            self._member.awaits(self._peers)
        return self

    def anew(self) -> PeerWait:
        """A wait for the same, as long as this one was to last at first; for another thread."""
        return PeerWait(self._member, self._peers, self._what, self._limit)

    def for_works(self, works: Sequence[RankedWork]) -> None:
        """Until all messages have been sent or have arrived. An error names the peer of the first
        one that has not."""
        for rank, work in works:
            self.of([rank])
            work.wait(self._left())

    def on_this_stream(self, works: Sequence[dist.Work]) -> None:
        """Have what this thread gives the device from now on come after these operations of a
        native library; the host goes on. (With a time limit it would stand still: torch then looks
        every millisecond whether the operation has ended.)"""
        for work in works:
            work.wait()

    def for_collective(self, works: Sequence[dist.Work]) -> None:
        """Until the library has done its part with all peers together."""
        for work in works:
            work.wait(self._left())

    def for_future(self, future: Future[T]) -> T:
        """The result of a thread that waits for the same messages; not longer than the generation
        lasts."""
        guarded = self._member.waits.guard(future)
        return guarded.result(self.left_s + self._member.deadlines.last_word_s)

    def _left(self) -> timedelta:
        # Zero would mean "no limit" to torch.
        return timedelta(seconds=max(0.001, self.left_s))

    def __enter__(self) -> PeerWait:
        self._is_entered = True
        self._member.awaits(self._peers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_entered = False
        self._member.awaits(())
        is_over = self._member.is_over()
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError) and not is_over:
            return  # RuntimeErrors too, though no peer has a part in them
        if isinstance(error, RuntimeError | FutureTimeout):
            lost = PeerError(self._words(error))
            if self._is_late(error):
                names = self._member.names
                lost.waited_for = tuple(names[rank] for rank in self._peers if rank < len(names))
            raise lost from error
        if error is None and is_over:
            raise PeerError(f"{self._me}: generation {self._member.generation} has been ended")

    def _words(self, error: BaseException) -> str:
        me, peers = self._me, self._member.in_words(self._peers)
        if self._is_late(error):
            limit = self._member.deadlines.words(self._limit)
            return f"{me} waited {limit} for {peers}: {self._what}"
        return f"{me} lost {peers}: {self._what}: {error}"

    def _is_late(self, error: BaseException) -> bool:
        # The clock says it surely; gloo's own may have begun a moment before ours.
        return self.left_s == 0.0 or isinstance(error, FutureTimeout) or _is_gloos_limit(str(error))

    @property
    def _me(self) -> str:
        return self._member.in_words([self._member.rank])


def _is_gloos_limit(text: str) -> bool:
    # Not a socket's "Connection timed out", which is a link's end.
    return "Operation timed out" in text or "Timed out waiting" in text


NewWait = Callable[[], PeerWait]
"""Begins a wait for the peers of an operation, which an error then names."""
