"""An agent that outlives whoever has started it: forked twice, in a session of its own.

Ray ends its actors and what they have started when the node's raylet is gone, or a minute after its
head is. Training needs neither, so the actor that Ray has placed starts the agent in this way and
does no more than hold its devices, and the line by which the next controller's settings come. What
ends the agent is its controller's word, or that it is gone and none follows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from dougong.control.environment import child_environment
from dougong.control.processes import open_pidfd, process_exists
from dougong.errors import LaunchError
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.kept.door import knock
from dougong.launcher.kept.line import DETACHED, WAITS, AgentEnd, give_settings
from dougong.records.directory import RunDir
from dougong.records.files import last_line


class DetachedAgent:
    """The starter's side of such an agent. `pid`: of its process."""

    def __init__(self, settings: AgentSettings) -> None:
        """Start it. LaunchError when that is not possible."""
        self._log = RunDir(settings.run_dir).agent_log(settings.name)
        self._deadlines = settings.deadlines
        self._is_waiting = threading.Event()
        self._num_bytes = self._log_bytes  # what an earlier life has printed is not this one's
        found = self._find(settings) if settings.outlives else None
        self._line, self.pid = found or self._begin(settings)
        self._words = self._line.makefile("r")
        self._fd = open_pidfd(self.pid)

    def _begin(self, settings: AgentSettings) -> tuple[socket.socket, int]:
        """A new one: its line and its process."""
        line, theirs = socket.socketpair()
        with theirs:
            first = _spawn(theirs.fileno(), self._opened_log(settings))
        _give(line, settings)
        # What has been started so ends when it has forked; that is no agent's end.
        first.wait(self._deadlines.agents_join_s)
        pid = _read_pid(line)
        if pid is None:
            raise LaunchError(f"its process did not begin{self._last_words()}")
        return line, pid

    def _find(self, settings: AgentSettings) -> tuple[socket.socket, int] | None:
        """The one of an earlier controller that waits on this machine for another, and takes these
        settings: its line and its process. One that does not is ended."""
        found = knock(settings)
        if found is None:
            return None
        line, pid = found
        _give(line, settings)
        # It may not know yet that its controller is gone.
        line.settimeout(self._deadlines.controller_silence_s + self._deadlines.agent_waits_s)
        said = _read_pid(line)
        line.settimeout(None)
        if said is not None:
            return line, said
        line.close()
        self.pid, self._fd = pid, open_pidfd(pid)
        self.kill()
        return None

    def wait(self) -> AgentEnd:
        """How it has ended, once it has. LaunchError where it had no time to say so."""
        while (said := self._words.readline()).encode() == WAITS:
            self._is_waiting.set()
        if not said:
            raise LaunchError(
                f"its process (pid {self.pid}) ended without a word{self._last_words()}"
            )
        return AgentEnd.from_json(said)

    def go_on(self, settings: AgentSettings, within_s: float) -> bool:
        """Have it serve the next controller, where it waits for one, or does by then; whether it
        does. Another thread hears it, in `wait`."""
        if not self._is_waiting.wait(within_s):
            return False
        self._is_waiting.clear()
        self._num_bytes = self._log_bytes
        _give(self._line, settings)
        return True

    def kill(self) -> None:
        """SIGKILL: it, its fork server and its workers. No error when it has ended."""
        try:
            if self._fd is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        except ProcessLookupError:
            return
        until = time.monotonic() + self._deadlines.kill_s
        while process_exists(self.pid) and time.monotonic() < until:
            time.sleep(self._deadlines.exit_poll_every_s)

    def _opened_log(self, settings: AgentSettings) -> int:
        """Where it prints: next to the logs of its workers; with us where these cannot be."""
        try:
            if RunDir(settings.run_dir).logs.is_dir():  # else it is not this machine's: make none
                self._log.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError:
            pass  # a log that cannot be written is not what stops an agent
        return os.dup(2)

    @property
    def _log_bytes(self) -> int:
        return self._log.stat().st_size if self._log.is_file() else 0

    def _last_words(self) -> str:
        last = last_line(self._log) if self._log_bytes > self._num_bytes else ""
        return f": {last} (all of it: {self._log})" if last else ""


def _give(line: socket.socket, settings: AgentSettings) -> None:
    with contextlib.suppress(OSError):  # it has ended, as its silence says
        give_settings(line, settings)


def _read_pid(line: socket.socket) -> int | None:
    """What an agent says first; None where it says nothing. Not a byte of what comes after that."""
    said = b""
    with contextlib.suppress(OSError):
        while (byte := line.recv(1)) not in (b"", b"\n"):
            said += byte
    return int(said) if said.isdigit() else None


def _spawn(line: int, log: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "dougong.launcher.kept.serve", DETACHED],
            stdin=line,
            stdout=log,
            stderr=log,
            env=child_environment({}),
        )
    except OSError as error:
        raise LaunchError(f"cannot start {sys.executable}: {error}") from error
    finally:
        os.close(log)
