"""The agent's end of its zygote: starts it, asks it to fork and to kill, hears of every exit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong.control.channel import Channel
from dougong.control.environment import child_environment
from dougong.errors import LaunchError
from dougong.launcher.agent.fork_server import LENGTH


class ForkServer:
    """One zygote process. `channel` yields its answers: ready, broken, forked {id, pid}, exit {pid,
    code}."""

    def __init__(
        self, variables: Mapping[str, str], modules: Sequence[str], cwd: Path | None
    ) -> None:
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "dougong.launcher.agent.fork_server",
            str(theirs.fileno()),
            str(os.getpid()),
            *modules,
        ]
        try:
            self._process = subprocess.Popen(
                command,
                env=child_environment(variables),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"cannot start {command[0]}: {error}") from error
        finally:
            theirs.close()
        self._socket = ours
        self._lock = threading.Lock()
        self.channel = Channel(ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, request: Mapping[str, Any], fds: Sequence[int]) -> None:
        """Ask for one worker; `request` has `id`, which comes back with the pid. The caller still
        owns the fds."""
        payload = json.dumps({**request, "do": "fork"}).encode()
        with self._lock:
            socket.send_fds(self._socket, [LENGTH.pack(len(payload))], list(fds))
            self._socket.sendall(payload)

    def kill(self, pid: int) -> None:
        """SIGKILL a worker and what it started. No error when it has ended."""
        payload = json.dumps({"do": "kill", "pid": pid}).encode()
        with self._lock:
            self._socket.sendall(LENGTH.pack(len(payload)) + payload)

    def destroy(self) -> None:
        """End the zygote; the kernel ends its workers with it (they die with their parent)."""
        self.channel.close()
        try:
            self._process.wait(2.0)  # it kills the workers' groups, then leaves
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(5.0)

    def exit_text(self) -> str:
        """Why the zygote is gone, in words."""
        try:
            return f"fork server (pid {self.pid}) ended with status {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            return f"fork server (pid {self.pid}) closed its line"
