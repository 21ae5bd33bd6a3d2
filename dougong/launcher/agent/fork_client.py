"""The agent's end of its fork server: starts it, asks it to fork and to kill, hears of every
exit."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dougong.control.channel import Channel
from dougong.control.environment import child_environment
from dougong.control.fork_messages import ForkRequest, KillRequest, SignalRequest, StartServer
from dougong.control.messages import encode
from dougong.control.processes import end_words, process_state
from dougong.control.progress import ForkServerSigns
from dougong.errors import LaunchError
from dougong.launcher.agent.fork_server import LENGTH
from dougong.launcher.agent.signs import LONGEST_LOOK

_STOPPED = ("T", "t")
"""States of a process that is stopped, by a signal or by a debugger."""


class ForkServer:
    """One fork server process. `channel` yields its answers: ServerReady or ServerBroken once,
    Forked or ForkFailed for every request, ChildExited for every end where nobody adopts.
    `is_ready`: it has imported everything, as whoever reads its answers has noted. `beginning`:
    with what it was started; `num_asked`: forks that it has not answered yet; `hung`: how it was
    when it was given up, None where it was not."""

    def __init__(
        self,
        variables: Mapping[str, str],
        start: StartServer,
        cwd: Path | None,
    ) -> None:
        """`start`: the first request; who `adopts`, is this process."""
        self.is_ready = False
        self.num_asked = 0
        self.hung: ForkServerSigns | None = None
        self.signs = ForkServerSigns()
        self._looked_at = 0.0
        self._given_up = ""
        self.beginning = (dict(variables), start, cwd)
        self._deadlines = deadlines = start.deadlines
        self._socket, server_end = socket.socketpair()
        with server_end:
            self._process = _spawn(server_end.fileno(), variables, cwd)
        self.channel = Channel(
            self._socket, f"the fork server (pid {self._process.pid})", deadlines
        )
        with contextlib.suppress(OSError):  # it has ended already, as its channel says
            self._send(start)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, request: ForkRequest, fds: Sequence[int]) -> None:
        """Ask for one worker. The caller still owns the descriptors."""
        self._send(request, fds)
        self.num_asked += 1

    def look(self, now: float) -> ForkServerSigns:
        """How it is, seen again and again: it stands stopped, or has not answered all that it was
        asked. `now`: monotonic seconds."""
        state, before = process_state(self.pid), self.signs
        owes = "has not answered" if self.num_asked and self.is_ready else ""
        if state in _STOPPED:
            owes = "was stopped"
        since_s = 0.0
        if owes and owes == before.owes:
            # Who looks late was held up himself, as a rule together with what he looks at.
            longest_s = LONGEST_LOOK * self._deadlines.look_every_s
            since_s = before.since_s + min(now - self._looked_at, longest_s)
        self._looked_at = now
        self.signs = ForkServerSigns(owes, since_s, state)
        return self.signs

    def give_up(self) -> None:
        """SIGKILL it, for what it owes: its channel ends, and `exit_text` says why."""
        self.hung = self.signs
        limit = self._deadlines.words("hang_s")
        self._given_up = f"{self.signs.owes}, and was given up after {limit}"
        self._process.kill()

    def kill(self, pid: int) -> None:
        """SIGKILL a worker and what it started. No error when it has ended."""
        self._send(KillRequest(pid))

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a worker alone. No error when it has ended."""
        self._send(SignalRequest(pid, number))

    def close(self) -> None:
        """End the fork server, and with it those workers whose parent it is."""
        self.channel.close()
        try:
            # It kills the workers' groups, then leaves.
            self._process.wait(self._deadlines.fork_server_end_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(self._deadlines.kill_s)

    def exit_text(self) -> str:
        """Why the fork server is gone, in words."""
        if self._given_up:
            return f"fork server (pid {self.pid}) {self._given_up}"
        try:
            status = self._process.wait(self._deadlines.exit_status_s)
        except subprocess.TimeoutExpired:
            return f"fork server (pid {self.pid}) closed its connection"
        return f"fork server (pid {self.pid}) {end_words(status)}"

    def _send(
        self,
        request: StartServer | ForkRequest | KillRequest | SignalRequest,
        fds: Sequence[int] = (),
    ) -> None:
        """Length first: descriptors arrive with the bytes that they were sent with, so the server
        must know where a request begins."""
        frame = encode(request)
        socket.send_fds(self._socket, [LENGTH.pack(len(frame))], list(fds))
        self._socket.sendall(frame)


def _spawn(
    server_fd: int, variables: Mapping[str, str], cwd: Path | None
) -> subprocess.Popen[bytes]:
    module = "dougong.launcher.agent.fork_server"
    command = [sys.executable, "-m", module, str(server_fd), str(os.getpid())]
    try:
        return subprocess.Popen(
            command,
            env=child_environment(variables),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            pass_fds=[server_fd],
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchError(f"cannot start {command[0]}: {error}") from error
