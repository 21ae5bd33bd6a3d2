"""Processes of this machine that outlive their controller: its agents, with all that their fork
servers have loaded, which takes longer than anything else in a start; or the process that speaks
with Ray, with the actors that hold the agents.

A controller dies with what it holds; so the command beside it (`launcher.supervisor`) holds, of
each, the other end of the line by which it is told what to serve. The controller that follows tells
it anew. Such a process ends when nobody holds that end any more, when a controller says so, or when
no other follows its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

from dougong.control.processes import end_words, open_pidfd
from dougong.deadlines import Deadlines
from dougong.launcher.kept.line import WAITS


@dataclass
class KeptProcess:
    """One such process. `line`: by which it is told what to serve; `process`: where it is a child
    of ours."""

    name: str
    pid: int
    pidfd: int | None
    line: socket.socket | None
    process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def of(name: str, process: subprocess.Popen[bytes], line: socket.socket) -> KeptProcess:
        """One that has just been started."""
        return KeptProcess(name, process.pid, open_pidfd(process.pid), line, process)

    def waits(self, within_s: float) -> bool:
        """Whether it has said, or says by then, that it can serve another controller."""
        if self.line is None or self.pidfd is None or self.exit_words() is not None:
            return False
        try:
            ready, _, _ = select.select([self.line], [], [], within_s)
            return bool(ready) and self.line.recv(len(WAITS)) == WAITS
        except OSError:
            return False

    @property
    def status(self) -> int | None:
        """Of its exit, negative for a signal; None while it lives, or where we are not told."""
        return None if self.process is None else self.process.poll()

    def exit_words(self) -> str | None:
        """How it has ended; None: it lives."""
        if self.process is not None:
            return None if self.status is None else f"its process {end_words(self.status)}"
        return "its process ended" if self._await_end(0.0) else None

    def wait(self, within_s: float) -> bool:
        """Whether it ends by then."""
        if self.process is None:
            return self._await_end(within_s)
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def hang_up(self) -> None:
        """No controller follows, whoever else holds the line: it ends when its own one is gone."""
        if self.line is not None:
            with contextlib.suppress(OSError):
                self.line.shutdown(socket.SHUT_RDWR)

    def kill(self, deadlines: Deadlines) -> None:
        """SIGKILL: it, and what ends with it. No error when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.process is not None:
                self.process.kill()
            elif self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.wait(deadlines.kill_s)

    def close(self) -> None:
        """Let go of it."""
        if self.line is not None:
            self.line.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.line = self.pidfd = None

    def _await_end(self, within_s: float) -> bool:
        pidfd = self.pidfd
        if pidfd is None:
            return True  # it has been let go of
        ready, _, _ = select.select([pidfd], [], [], within_s)
        return bool(ready)


class Keeping:
    """What a command and its controllers, which it forks, have in common: the processes that the
    next controller may take over, by their names.

    `keep` and `take` are the controller's, `collect` and `close` the command's.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._kept: dict[str, KeptProcess] = {}

    def keep(self, process: KeptProcess) -> None:
        """Have the command hold it, too. Where that cannot be, it ends with its controller."""
        if process.line is None or process.pidfd is None:
            return
        words = f"{process.pid} {process.name}".encode()
        with contextlib.suppress(OSError):
            socket.send_fds(self._theirs, [words], [process.line.fileno(), process.pidfd])

    def take(self, name: str) -> KeptProcess | None:
        """The one of this name that an earlier controller had, if it waits for another. One that
        does not is ended."""
        process = self._kept.pop(name, None)
        if process is None:
            return None
        if process.waits(self._deadlines.agent_waits_s):
            return process
        self._end(process)
        return None

    def end_rest(self) -> None:
        """Whom an earlier controller had and this one does not want."""
        for name in list(self._kept):
            self._end(self._kept.pop(name))

    def collect(self) -> None:
        """Take in what the controller has sent, and let go of those that have ended."""
        while True:
            try:
                words, (line, pidfd), _, _ = socket.recv_fds(self._ours, 1024, 2)
            except OSError:  # there is no more
                return
            pid, _, name = words.decode().partition(" ")
            for other in list(self._kept.values()):
                if other.name == name or other.exit_words() is not None:
                    self._kept.pop(other.name).close()
            self._kept[name] = KeptProcess(name, int(pid), pidfd, socket.socket(fileno=line))

    def close(self) -> None:
        """No controller follows any more: those that have not ended by themselves are
        killed."""
        self.collect()
        until = time.monotonic() + self._deadlines.agent_end_s
        for process in self._kept.values():
            process.hang_up()
        for name in list(self._kept):
            self._kept[name].wait(max(0.0, until - time.monotonic()))
            self._end(self._kept.pop(name))
        self._ours.close()
        self._theirs.close()

    def _end(self, process: KeptProcess) -> None:
        process.kill(self._deadlines)
        process.close()
