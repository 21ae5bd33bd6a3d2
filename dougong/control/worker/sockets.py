"""The connections that libraries have made in this process: which they are, and how a call that
waits on one of them is ended.

gloo gives no other way: its own `abort` leaves a call that hangs as it is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

_FDS = "/dev/fd"
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class NewSockets:
    """The network connections that this process makes from now on, until `settle`: those of the
    libraries by which workers meet. Others that it has, or has later, are not touched."""

    def __init__(self) -> None:
        self._before = frozenset(_sockets())
        self._known: frozenset[int] | None = None

    def settle(self) -> None:
        """All are there; what is opened from now on is somebody else's."""
        self._known = frozenset(_sockets()) - self._before

    def shut(self) -> int:
        """End the connections, so that whoever waits for one of them is told so; how many there
        were. Listening sockets stay: gloo aborts the process when its own is ended. Any thread may
        call this, whatever the library does meanwhile."""
        count = 0
        for inode, fd in _sockets().items():
            is_ours = inode not in self._before if self._known is None else inode in self._known
            if is_ours:
                count += _shut(fd, inode)
        return count


def _sockets() -> dict[int, int]:
    """The sockets of this process: inode -> descriptor."""
    found = {}
    for fd in _descriptors():
        with contextlib.suppress(OSError):  # closed meanwhile
            status = os.fstat(fd)
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = fd
    return found


def _descriptors() -> Iterator[int]:
    return map(int, os.listdir(_FDS))


def _shut(fd: int, inode: int) -> bool:
    """End a socket if it is a connection. The descriptor is the library's, which may close it at
    any moment, and the system may give its number to another file at once: so a copy is taken and
    looked at before anything is done to it."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        # An error: it has been closed meanwhile, or is not connected any more.
        copy = os.dup(fd)
        stack.callback(os.close, copy)
        if not _is_socket(copy, inode):
            return False
        sock = stack.enter_context(socket.socket(fileno=os.dup(copy)))
        if _is_connection(sock):
            sock.shutdown(socket.SHUT_RDWR)
            return True
    return False


def _is_socket(fd: int, inode: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISSOCK(status.st_mode) and status.st_ino == inode


def _is_connection(sock: socket.socket) -> bool:
    is_network = sock.family in _FAMILIES and sock.type == socket.SOCK_STREAM
    return is_network and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
