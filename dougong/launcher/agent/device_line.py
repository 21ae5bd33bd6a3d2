"""An agent's line to the process that reads its devices: begun, heard, held to a deadline, begun
anew."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dougong.control.channel import Channel
from dougong.control.environment import child_environment
from dougong.control.messages import DevicesRead
from dougong.deadlines import Deadlines
from dougong.launcher.agent.child import read_messages

_MODULE = "dougong.launcher.agent.device_reader"


@dataclass
class _ReaderProcess:
    """One such process. `said_at`: when something has come from it, or it was begun (monotonic
    seconds); `has_begun`: whether something has come."""

    process: subprocess.Popen[bytes]
    channel: Channel
    said_at: float
    has_begun: bool = False


class DeviceLine:
    """Devices of one kind on this machine. `tell(message)`: how they are, or why nobody says it.

    Nothing here waits: a reader that hangs in its driver, or does not even die, costs its agent a
    line alone.
    """

    def __init__(
        self,
        kind: str,
        variables: Mapping[str, str],
        selector: selectors.BaseSelector,
        tell: Callable[[DevicesRead], None],
        deadlines: Deadlines,
    ) -> None:
        """`variables`: what its environment has besides."""
        self._kind, self._variables = kind, variables
        self._selector, self._tell = selector, tell
        self._deadlines = deadlines
        self._reader: _ReaderProcess | None = None
        self._begin_at = 0.0
        self._ending: subprocess.Popen[bytes] | None = None
        self._kill_at = 0.0
        self._is_over = False

    def tick(self, now: float) -> None:
        """Call ten times a second. `now`: monotonic seconds."""
        if self._ending is not None:
            self._look_at_end(self._ending, now)
        if self._reader is None:
            # One that cannot be killed, since it is stuck in the kernel, has no follower.
            if self._ending is None and not self._is_over and now >= self._begin_at:
                self._begin(now)
            return
        limit = "telemetry_silence_s" if self._reader.has_begun else "telemetry_start_s"
        if now - self._reader.said_at > getattr(self._deadlines, limit):
            words = self._deadlines.words(limit)
            self._tell(DevicesRead(problem=f"nothing from its driver for {words}"))
            self._reader.process.kill()
            self._end(now)

    def close(self) -> None:
        """End the process, without waiting."""
        self._is_over = True
        if self._reader is not None:
            self._reader.process.kill()
            self._end(0.0)

    def _begin(self, now: float) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", _MODULE, self._kind, str(theirs.fileno())]
            try:
                process = subprocess.Popen(
                    [*command, str(os.getpid())],
                    env=child_environment(self._variables),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                self._tell(DevicesRead(problem=f"nobody reads the devices: {error}"))
                self._begin_at = now + self._deadlines.telemetry_retry_s
                return
        channel = Channel(ours, f"the reader of devices (pid {process.pid})", self._deadlines)
        self._reader = _ReaderProcess(process, channel, now)
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._hear(channel))

    def _hear(self, channel: Channel) -> None:
        reader = self._reader
        if reader is None or reader.channel is not channel:
            return  # it was given up earlier in this same round
        try:
            messages = read_messages(channel, lambda _: None)
        except (OSError, EOFError):
            self._end(channel.heard_at)
            return
        for message in messages:
            reader.said_at, reader.has_begun = channel.heard_at, True
            if isinstance(message, DevicesRead):
                self._tell(message)

    def _end(self, now: float) -> None:
        assert self._reader is not None
        self._selector.unregister(self._reader.channel)
        self._reader.channel.close()
        self._ending, self._reader = self._reader.process, None
        self._begin_at = now + self._deadlines.telemetry_retry_s
        self._kill_at = now + self._deadlines.kill_s

    def _look_at_end(self, process: subprocess.Popen[bytes], now: float) -> None:
        code = process.poll()
        if code is not None:
            # By itself and well: there is nothing to read, and nobody begins anew.
            self._is_over |= code == 0
            self._ending = None
        elif now >= self._kill_at:
            process.kill()  # it has closed its line, and has not ended since
