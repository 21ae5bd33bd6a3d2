"""Everything that reaches the controller, as items of one queue; and threads whose results come
back over it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from dougong.control.channel import Channel
from dougong.control.handshake import AgentFacts
from dougong.control.messages import Message


@dataclass(frozen=True)
class AgentJoined:
    """An agent has proved itself; `hello` says what it is."""

    agent: str
    hello: AgentFacts
    channel: Channel


@dataclass(frozen=True)
class AgentMessage:
    """An agent said something."""

    agent: str
    channel: Channel
    message: Message


@dataclass(frozen=True)
class AgentLeft:
    """An agent's connection ended."""

    agent: str
    channel: Channel
    reason: str


@dataclass(frozen=True)
class ClientRequest:
    """Another terminal wants something; it waits for an answer on the channel."""

    channel: Channel
    message: Message


@dataclass(frozen=True)
class PeerRefused:
    """Somebody or something foreign was turned away."""

    text: str


@dataclass(frozen=True)
class SignalReceived:
    """This process got a signal."""

    number: int


@dataclass(frozen=True)
class TaskEnded:
    """A background task ended. `error` is what it raised."""

    task: str
    value: Any
    error: BaseException | None


Item = (
    AgentJoined
    | AgentMessage
    | AgentLeft
    | ClientRequest
    | PeerRefused
    | SignalReceived
    | TaskEnded
)


class Inbox:
    """The one queue. `put` may be called from any thread and from a signal handler."""

    def __init__(self) -> None:
        self._items: SimpleQueue[Item] = SimpleQueue()

    def put(self, item: Item) -> None:
        self._items.put(item)

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
        self._calls: SimpleQueue[tuple[str, Callable[[], Any]]] = SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def call(self, task: str, function: Callable[[], Any]) -> None:
        """Run `function`; `TaskEnded(task, ...)` comes to the inbox."""
        self._calls.put((task, function))

    def settle(self, timeout_s: float) -> None:
        """Wait, up to a limit, until nothing runs here: an interpreter that ends while a library is
        being imported in a thread aborts."""
        idle = threading.Event()
        self._calls.put(("settle", idle.set))
        idle.wait(timeout_s)

    def _serve(self) -> None:
        while True:
            task, function = self._calls.get()
            try:
                self._inbox.put(TaskEnded(task, function(), None))
            except BaseException as error:  # whatever it is, the controller must hear of it
                self._inbox.put(TaskEnded(task, None, error))
