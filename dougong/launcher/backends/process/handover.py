"""How a controller and a backend's process get a pair of sockets of their own: the controller makes
it, and hands one end over on a line that stays. So nothing that a dead controller has half said, or
has not read, is ever the next one's.
"""

from __future__ import annotations

import contextlib
import select
import socket

from dougong.deadlines import Deadlines
from dougong.launcher.backends.process.line import BackendLine
from dougong.launcher.kept.keeping import KeptProcess
from dougong.launcher.kept.line import WAITS

_HERE = b"."


def hand_line(process: KeptProcess, deadlines: Deadlines) -> BackendLine:
    """The controller's end of a new pair. Where the process is gone, it ends at once."""
    ours, theirs = socket.socketpair()
    assert process.line is not None
    with theirs, contextlib.suppress(OSError):
        socket.send_fds(process.line, [_HERE], [theirs.fileno()])
    return BackendLine(ours, deadlines.send_s)


class Handover:
    """The process's end of the line that stays."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def say_waiting(self) -> None:
        """The controller is gone, and another one can be served."""
        with contextlib.suppress(OSError):  # nobody holds the other end: the next look says so
            self._sock.send(WAITS)

    def take_line(self, deadlines: Deadlines) -> BackendLine | None:
        """The next controller's; None: none comes in time, or nobody is left who could hand it."""
        ready, _, _ = select.select([self._sock], [], [], deadlines.next_controller_s)
        try:
            fds = socket.recv_fds(self._sock, len(_HERE), 1)[1] if ready else []
        except OSError:
            return None
        return BackendLine(socket.socket(fileno=fds[0]), deadlines.send_s) if fds else None
