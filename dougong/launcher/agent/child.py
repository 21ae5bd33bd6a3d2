"""One worker process as its agent sees it: descriptors, log file, lines worth forwarding, how it
ended."""

from __future__ import annotations

import os
import socket
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dougong.control.channel import Channel, Message
from dougong.control.progress import ProgressVector
from dougong.ui.log_grouping import Classifier

LAST_LINES = 12
_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 14


@dataclass
class Child:
    """Descriptors that the agent keeps for a worker; `theirs` are the ends for the worker, closed
    after the fork.

    `task`: what it was forked for. `talkative`: every line that it prints is forwarded.
    """

    worker: str
    generation: int
    task: str
    talkative: bool
    channel: Channel
    output: int
    vector: ProgressVector
    log: BinaryIO
    theirs: tuple[int, int, int]
    pid: int | None = None
    doomed: bool = False
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    closed: bool = False
    _classifier: Classifier = field(default_factory=Classifier)
    _partial: bytes = b""

    @classmethod
    def open(cls, worker: str, generation: int, request: Message, log_file: Path) -> Child:
        """Make the socket, the pipe, the vector and the log file. Every line of the console's
        worker is forwarded."""
        log_file.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        vector = ProgressVector.create()
        log = log_file.open("ab", buffering=0)
        ends = (theirs.detach(), write_end, vector.fd)
        talkative = request.get("console") == worker
        return cls(
            worker,
            generation,
            request["task"],
            talkative,
            Channel(ours),
            read_end,
            vector,
            log,
            ends,
        )

    def forget_theirs(self) -> None:
        """Close our copies of the worker's ends, so that its end of file reaches us."""
        os.close(self.theirs[0])
        os.close(self.theirs[1])

    def read_output(self, most: int = 16) -> tuple[list[str], bool]:
        """Move what the worker printed into its log; the lines worth forwarding, and whether the
        pipe is still open."""
        lines: list[str] = []
        for _ in range(most):
            try:
                data = os.read(self.output, _READ_BYTES)
            except BlockingIOError:
                return lines, True
            if not data:
                return lines + self._cut(b"\n" if self._partial else b""), False
            self.log.write(data)
            lines += self._cut(data)
        return lines, True

    def _cut(self, data: bytes) -> list[str]:
        *whole, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE_BYTES:
            whole, self._partial = [*whole, self._partial], b""
        wanted = []
        for line in whole:
            text = line.rpartition(b"\r")[2].decode("utf-8", "replace").rstrip()
            self.last_lines.append(text)
            level, _ = self._classifier.feed(text)
            if self.talkative or level != "info":
                wanted.append(text)
        return wanted

    def close(self) -> None:
        self.closed = True
        self.channel.close()
        os.close(self.output)
        self.vector.close()
        self.log.close()
