"""Where an agent that has outlived its starter is found by another one on the same machine: a
socket of an abstract name (unix(7)), which no folder holds and which is gone with its process.

Both ends look who the other one is (SO_PEERCRED): nobody but this user comes in, or is let in.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from contextlib import suppress

from dougong.launcher.agent.settings import AgentSettings

_PEER = struct.Struct("3i")


class Door:
    """The agent's end, open from its start: who comes while it serves a controller waits."""

    def __init__(self, settings: AgentSettings) -> None:
        """OSError where an agent of that run and name has it on this machine."""
        self.name = _name_of(settings)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(self.name)
            self._socket.listen(1)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For `select`: somebody is there."""
        return self._socket.fileno()

    def let_in(self) -> socket.socket | None:
        """Who is there; None where nobody is any more, or it is another user's process."""
        try:
            line, _ = self._socket.accept()
        except OSError:
            return None
        line.setblocking(True)
        if _peer(line)[1] == os.geteuid():
            return line
        line.close()
        return None

    def close(self) -> None:
        """From now on nobody is let in; whoever waits is told so by the end of his line."""
        self._socket.close()


def knock(settings: AgentSettings) -> tuple[socket.socket, int] | None:
    """The line to the agent of this run and name that has outlived its starter on this machine, and
    its process; None where there is none."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(OSError):
        line.connect(_name_of(settings))
        pid, user = _peer(line)
        if user == os.geteuid():
            return line, pid
    line.close()
    return None


def _name_of(settings: AgentSettings) -> str:
    place = f"{os.geteuid()} {os.path.realpath(settings.run_dir)} {settings.name}"
    return f"\0dougong-agent-{hashlib.blake2b(place.encode(), digest_size=16).hexdigest()}"


def _peer(line: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end."""
    data = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, user, _ = _PEER.unpack(data)
    return pid, user
