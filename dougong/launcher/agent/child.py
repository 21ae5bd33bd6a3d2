"""One worker process as its agent sees it: descriptors, log file, lines worth forwarding."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dougong.control.channel import Channel
from dougong.control.messages import (
    JoinGeneration,
    LeaveGeneration,
    Message,
    ProtocolError,
    RestAfterStep,
    StopAfterStep,
)
from dougong.control.processes import process_state
from dougong.control.progress import ProgressVector, WorkerProgress, WorkerSigns
from dougong.control.tasks import Task, TrainTask
from dougong.control.worker_messages import StoreReply
from dougong.deadlines import DEADLINES, Deadlines
from dougong.launcher.agent.signs import ProcessWatch
from dougong.storage.worker_log import WorkerLog
from dougong.ui.log_grouping import Classifier, says_nothing

LAST_LINES = 12
_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 14


ForWorker = LeaveGeneration | JoinGeneration | StoreReply
"""What an agent says to a worker."""


class Outbox:
    """Messages on their way to a worker. A thread of its own sends them, since one that is stopped
    reads nothing: the agent must not wait for it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._messages: queue.SimpleQueue[ForWorker | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, message: ForWorker) -> None:
        """Send it after those before it."""
        if self._thread is None:  # most workers are never told anything
            self._thread = threading.Thread(target=self._send, name="dougong-outbox", daemon=True)
            self._thread.start()
        self._messages.put(message)

    def close(self) -> None:
        """Send nothing more."""
        self._messages.put(None)

    def _send(self) -> None:
        # A worker that is gone or does not read is found by other signs.
        with contextlib.suppress(OSError):
            while (message := self._messages.get()) is not None:
                self._channel.send(message)


@dataclass
class Child:
    """The agent's descriptors of one worker.

    `task`: the kind of task that it was forked for. `forward_all`: every line that it prints is
    forwarded. `worker_ends`: the descriptors for the worker, closed here after the fork. `killed`:
    the controller asked for its end. `has_left`: it has left its generation, and waits for the
    next one; `held_step`: what it said then that it holds in memory.
    """

    worker: str
    generation: int
    task: str
    forward_all: bool
    channel: Channel
    output: int
    vector: ProgressVector
    log: WorkerLog
    worker_ends: tuple[int, int, int]
    pid: int | None = None
    killed: bool = False
    closed: bool = False
    has_left: bool = False
    held_step: int = 0
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    _classifier: Classifier = field(default_factory=Classifier)
    _partial: bytes = b""
    _outbox: Outbox | None = None
    _watch: ProcessWatch = field(default_factory=lambda: ProcessWatch(DEADLINES.look_every_s))

    @classmethod
    def open(
        cls, worker: str, generation: int, task: Task, log: WorkerLog, deadlines: Deadlines
    ) -> Child:
        """Make the socket, the pipe and the vector. OSError where one of them cannot be."""
        agent_end, worker_end = socket.socketpair()
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        vector = ProgressVector.create()
        return cls(
            worker=worker,
            generation=generation,
            task=task.task,
            forward_all=isinstance(task, TrainTask) and task.console == worker,
            channel=Channel(agent_end, f"worker {worker}", deadlines),
            output=read_end,
            vector=vector,
            log=log,
            worker_ends=(worker_end.detach(), write_end, vector.fd),
        )

    def tell(self, message: ForWorker) -> None:
        """Send it to the worker, without waiting for it."""
        if self._outbox is None:
            self._outbox = Outbox(self.channel)
        self._outbox.put(message)

    def ask(self, message: StopAfterStep | RestAfterStep) -> None:
        """Have the worker do so when its step is done; it looks in its vector."""
        if isinstance(message, StopAfterStep):
            self.vector.request_stop()
        else:
            self.vector.request_rest()

    def note_left(self, step: int) -> None:
        """It has left its generation, and holds this step in memory."""
        self.has_left, self.held_step = True, step

    def take(self, generation: int, task: TrainTask, log: WorkerLog) -> None:
        """From now on it is a worker of this generation."""
        self.generation, self.task, self.has_left = generation, task.task, False
        self.forward_all = task.console == self.worker
        self.vector.forget_stop()
        self.log.close()
        self.log = log

    def close_worker_ends(self) -> None:
        """Close our copies of the worker's ends, so that its end of file reaches us.

        The vector's descriptor is shared: we read through it.
        """
        socket_end, output_end, _ = self.worker_ends
        os.close(socket_end)
        os.close(output_end)

    def read_output(self, max_reads: int = 16) -> tuple[list[str], bool]:
        """Move what the worker printed into its log; the lines worth forwarding, and whether the
        pipe is still open."""
        lines: list[str] = []
        for _ in range(max_reads):
            try:
                data = os.read(self.output, _READ_BYTES)
            except BlockingIOError:
                return lines, True
            if not data:
                if self._partial:
                    lines += self._take(b"\n")
                return lines, False
            self.log.write(data)
            lines += self._take(data)
        return lines, True

    def _take(self, data: bytes) -> list[str]:
        """Cut the output into lines; those worth forwarding. A line without end is held back."""
        *whole, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE_BYTES:
            whole.append(self._partial)
            self._partial = b""
        wanted = []
        for line in whole:
            # A progress bar rewrites its line; only its last state is text to show.
            text = line.rpartition(b"\r")[2].decode("utf-8", "replace").rstrip()
            if says_nothing(text):
                continue
            self.last_lines.append(text)
            level, _ = self._classifier.feed(text)
            if self.forward_all or level != "info":
                wanted.append(text)
        return wanted

    def look(self, progress: WorkerProgress, now: float) -> WorkerSigns:
        """Signs of life of the process, of which `progress` was just read."""
        state = "" if self.pid is None else process_state(self.pid)
        signs = self._watch.look(progress, state, now)
        return dataclasses.replace(signs, ordered=self.vector.ordered)

    def close(self) -> None:
        self.closed = True
        if self._outbox is not None:
            self._outbox.close()
        self.channel.close()
        os.close(self.output)
        self.vector.close()
        self.log.close()


def read_messages(channel: Channel, on_malformed: Callable[[str], None]) -> list[Message]:
    """All messages that have come, without waiting; a malformed one is reported and passed over.
    EOFError at the end of the stream."""
    while True:
        try:
            return channel.drain()
        except ProtocolError as error:
            on_malformed(str(error))
