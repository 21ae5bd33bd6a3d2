"""A worker's end of the line to its agent: one thread reads it, every thread may speak.

So a worker that is stuck in a call of a library is told what it has to know even so.
"""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

from dougong.control.channel import Channel
from dougong.control.messages import JoinGeneration, LeaveGeneration, Message, ProtocolError
from dougong.control.worker_messages import StoreReply, StoreRequest, WorkerMessage
from dougong.deadlines import Deadlines
from dougong.errors import PeerError

T = TypeVar("T")


class WorkerLine:
    """What the agent says, as it comes: an order to leave the present generation, the next one to
    join, answers to questions.

    `generation`: the present one, from `begin` on.
    """

    def __init__(self, channel: Channel, deadlines: Deadlines) -> None:
        self.generation = 0
        self._channel = channel
        self._deadlines = deadlines
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._left = 0  # the newest generation that is to be left
        self._free: Callable[[], None] | None = None
        self._next: JoinGeneration | None = None
        self._replies: dict[int, StoreReply | None] = {}  # by number; None: not there yet
        self._end: Exception | None = None
        threading.Thread(target=self._read, name="dougong-line", daemon=True).start()

    def send(self, message: WorkerMessage) -> None:
        """Send to the controller. OSError when the agent is gone."""
        self._channel.send(message)

    def begin(self, generation: int) -> None:
        """This is the present generation from now on."""
        with self._changed:
            self.generation = generation
            self._free = self._next = None

    def is_over(self, generation: int) -> bool:
        """Whether that generation is to be left, or was."""
        return self._left >= generation

    @property
    def leave_requested(self) -> bool:
        """Whether the present generation is to be left."""
        return self.is_over(self.generation)

    def free_by(self, free: Callable[[], None]) -> None:
        """Call this when the present generation is to be left; at once, where that is known
        already."""
        with self._changed:
            self._free = free
            is_late = self.leave_requested
        if is_late:
            free()

    def ask(
        self, question: Callable[[int], StoreRequest], timeout_s: float, limit: str = ""
    ) -> StoreReply:
        """Send what `question` makes of a number, and wait for the answer. `limit`: the field of
        `Deadlines` that the timeout is, for its error.

        PeerError when the generation is to be left meanwhile, TimeoutError at the deadline,
        EOFError when the agent is gone.
        """
        number = next(self._numbers)
        self._replies[number] = None
        try:
            self._channel.send(question(number))

            def answer() -> StoreReply | None:
                reply = self._replies[number]
                if reply is None and self.leave_requested:
                    raise PeerError(f"generation {self.generation} has been ended")
                return reply

            return self._await(answer, "an answer to a question", timeout_s, limit)
        finally:
            del self._replies[number]

    def await_leave(self) -> None:
        """Until the present generation is to be left. TimeoutError after `await_leave_s`, EOFError
        when the agent is gone."""
        what = f"word to leave generation {self.generation}"
        limit_s = self._deadlines.await_leave_s
        self._await(lambda: self.leave_requested or None, what, limit_s, "await_leave_s")

    def await_join(self) -> JoinGeneration:
        """The next generation. TimeoutError after `rejoin_s`, EOFError when the agent is gone."""
        what = f"a generation after {self.generation}"
        return self._await(lambda: self._next, what, self._deadlines.rejoin_s, "rejoin_s")

    def _await(self, look: Callable[[], T | None], what: str, timeout_s: float, limit: str) -> T:
        """What `look` finds, as soon as it finds something."""

        def is_over() -> bool:
            return look() is not None or self._end is not None

        with self._changed:
            self._changed.wait_for(is_over, timeout_s)
            found = look()
            if found is not None:
                return found
            if self._end is not None:
                raise EOFError(f"the agent is gone: {self._end}")
        words = self._deadlines.words(limit) if limit else f"{timeout_s:g} s"
        raise TimeoutError(f"waited {words} for {what}")

    # The reader's thread

    def _read(self) -> None:
        try:
            while True:
                self._take_next()
        except Exception as error:
            with self._changed:
                self._end = error
                self._changed.notify_all()

    def _take_next(self) -> None:
        try:
            message = self._channel.receive(None)
        except ProtocolError as error:  # one message is lost, the line is not
            print(f"warning: {error}", file=sys.stderr)
            return
        free = self._take(message)
        if free is None:
            return
        try:
            free()
        except Exception:  # the worker is found to be late, and killed
            traceback.print_exc()

    def _take(self, message: Message) -> Callable[[], None] | None:
        """Note it; what is to be called because of it."""
        with self._changed:
            self._changed.notify_all()
            match message:
                case LeaveGeneration(generation):
                    self._left = max(self._left, generation)
                    return self._free if generation >= self.generation else None
                case JoinGeneration():
                    self._next = message
                case StoreReply(number):
                    if number in self._replies:  # else nobody waits for it any more
                        self._replies[number] = message
                case _:
                    print(f"warning: {message.kind} is not for a worker", file=sys.stderr)
        return None
