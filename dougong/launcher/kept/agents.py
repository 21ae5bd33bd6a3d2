"""Agents of this machine that outlive their controller, with all that their fork servers have
loaded, which takes longer than anything else in a start.

A controller dies with what it holds; so the command beside it (`launcher.supervisor`) holds, of
every agent, the other end of the line by which it is given its settings. The controller that
follows gives it new ones. An agent ends when nobody holds that end any more, when a controller says
so, or when no other follows its own.
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
from dougong.launcher.agent.settings import AgentSettings

WAITS = b"."
"""An agent says so on its line when its controller is gone and nothing of it is left."""


@dataclass
class AgentProcess:
    """An agent of this machine. `line`: by which it is given settings, closed where it is to have
    no other controller; `process`: where it is a child of ours."""

    name: str
    pid: int
    pidfd: int | None
    line: socket.socket | None
    process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def of(name: str, process: subprocess.Popen[bytes], line: socket.socket) -> AgentProcess:
        """One that has just been started."""
        return AgentProcess(name, process.pid, open_pidfd(process.pid), line, process)

    def give(self, settings: AgentSettings, is_last: bool) -> None:
        """What it is to serve. `is_last`: no controller follows this one. OSError when it is
        gone."""
        assert self.line is not None
        self.line.sendall(settings.to_json().encode() + b"\n")
        if is_last:
            self.line.close()
            self.line = None

    def waits(self, within_s: float) -> bool:
        """Whether it has said, or says by then, that it can be given settings."""
        if self.line is None or self.pidfd is None or self.exit_words() is not None:
            return False
        try:
            ready, _, _ = select.select([self.line], [], [], within_s)
            return bool(ready) and self.line.recv(1) == WAITS
        except OSError:
            return False

    @property
    def ended_well(self) -> bool:
        """Whether it is known to have ended as it was told to."""
        return self.process is not None and self.process.poll() == 0

    def exit_words(self) -> str | None:
        """How it has ended; None: it lives."""
        if self.process is not None:
            status = self.process.poll()
            return None if status is None else f"its process {end_words(status)}"
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
        """SIGKILL: it, its fork servers and its workers. No error when it has ended."""
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
    """What a command and its controllers, which it forks, have in common: the agents that the next
    controller may take over.

    `keep` and `take` are the controller's, `collect` and `close` the command's.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._agents: dict[str, AgentProcess] = {}

    def keep(self, agent: AgentProcess) -> None:
        """Have the command hold it, too. Where that cannot be, it ends with its controller."""
        if agent.line is None or agent.pidfd is None:
            return
        words = f"{agent.pid} {agent.name}".encode()
        with contextlib.suppress(OSError):
            socket.send_fds(self._theirs, [words], [agent.line.fileno(), agent.pidfd])

    def take(self, name: str) -> AgentProcess | None:
        """The agent of this name that an earlier controller had, if it waits for another. One that
        does not is ended."""
        agent = self._agents.pop(name, None)
        if agent is None:
            return None
        if agent.waits(self._deadlines.agent_waits_s):
            return agent
        self._end(agent)
        return None

    def end_rest(self) -> None:
        """Whom an earlier controller had and this one does not want."""
        for name in list(self._agents):
            self._end(self._agents.pop(name))

    def collect(self) -> None:
        """Take in what the controller has sent, and let go of those that have ended."""
        while True:
            try:
                words, (line, pidfd), _, _ = socket.recv_fds(self._ours, 1024, 2)
            except OSError:  # there is no more
                return
            pid, _, name = words.decode().partition(" ")
            for other in list(self._agents.values()):
                if other.name == name or other.exit_words() is not None:
                    self._agents.pop(other.name).close()
            self._agents[name] = AgentProcess(name, int(pid), pidfd, socket.socket(fileno=line))

    def close(self) -> None:
        """No controller follows any more: those agents that have not ended by themselves are
        killed."""
        self.collect()
        until = time.monotonic() + self._deadlines.agent_end_s
        for agent in self._agents.values():
            agent.hang_up()
        for name in list(self._agents):
            self._agents[name].wait(max(0.0, until - time.monotonic()))
            self._end(self._agents.pop(name))
        self._ours.close()
        self._theirs.close()

    def _end(self, agent: AgentProcess) -> None:
        agent.kill(self._deadlines)
        agent.close()
