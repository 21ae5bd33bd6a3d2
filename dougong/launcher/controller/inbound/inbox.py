"""The one queue over which everything reaches the controller; and threads whose results come back
over it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from dougong.control.channel import Channel
from dougong.launcher.controller.inbound.items import (
    AgentBeat,
    AgentLeft,
    AgentMessage,
    Item,
    TaskFailed,
)


class Inbox:
    """The queue. `put` may be called from any thread and from a signal handler.

    Heartbeats stand beside it until somebody looks: a newer one of the same connection takes the
    place of the last, and none is read before it is wanted.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._beats: dict[Channel, AgentBeat] = {}
        self._lock = threading.Lock()  # of the beats; never taken by `put`

    def put(self, item: Item) -> None:
        self._items.put(item)

    def put_said(self, said: AgentMessage | AgentLeft) -> None:
        """What came over an agent's connection, behind the heartbeat before it. To be called from
        that connection's thread."""
        with self._lock:
            beat = self._beats.pop(said.channel, None)
        if beat is not None:
            self._items.put(beat)
        self._items.put(said)

    def put_beat(self, beat: AgentBeat) -> None:
        """A heartbeat: the same."""
        with self._lock:
            self._beats[beat.channel] = beat

    def take_beats(self) -> Sequence[AgentBeat]:
        """The newest heartbeat of everybody who has sent one since the last look, as far as `get`
        does not give it."""
        with self._lock:
            beats, self._beats = self._beats, {}
        return tuple(beats.values())

    def get(self, timeout_s: float) -> Item | None:
        """The next item, or None when none came in time."""
        try:
            return self._items.get(timeout=max(timeout_s, 0.0))
        except Empty:
            return None


class Background:
    """One thread for work that must not hold up the controller; calls run one after the other.

    The thread lives as long as the process: a process that it starts and that dies with its parent
    thread is safe. It does not keep the interpreter alive.
    """

    def __init__(self, name: str, inbox: Inbox) -> None:
        self._inbox = inbox
        self._calls: SimpleQueue[Callable[[], Item | None]] = SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def call(self, function: Callable[[], Item | None]) -> None:
        """Run `function`; what it returns comes to the inbox, or `TaskFailed` with what it
        raised."""
        self._calls.put(function)

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing runs here: an interpreter that ends while a library is being imported
        in a thread aborts. False when that was not within the limit."""
        # Calls run in their order, so that this one runs when all before it have ended.
        idle = threading.Event()
        self._calls.put(idle.set)
        return idle.wait(timeout_s)

    def _serve(self) -> None:
        while True:
            function = self._calls.get()
            try:
                item = function()
            except BaseException as error:  # whatever it is, the controller must hear of it
                item = TaskFailed(error)
            if item is not None:
                self._inbox.put(item)
