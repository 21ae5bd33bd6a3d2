"""Listening sockets, on a port that the system chooses or on one of a range.

A range is shared: by controller, agents and workers of one run, by other runs on the machine, by
strangers. So a port that is taken is passed over.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import psutil

from dougong.addresses import Ports, show_address
from dougong.errors import LaunchError

BACKLOG = 4096
"""Connections that wait to be accepted, as far as the system lets them (`net.core.somaxconn`)."""
_MOST_HOLDERS = 5


class NoPortError(LaunchError):
    """This machine cannot be listened on: at that address, or on none of the ports."""


def listen(host: str, ports: Ports | None) -> socket.socket:
    """A socket that listens on `host`, an address or name of this machine (IPv4 or IPv6); `ports`:
    on one of these, None: on one that the system chooses.

    NoPortError names the machine, and who holds the ports where that can be seen.
    """
    family, address = _resolve(host)
    if ports is None:
        return _listen_at(family, address, 0)
    # Who begins at a place of its own hardly ever meets others on the way.
    for port in ports.beginning_at(secrets.randbelow(len(ports))):
        try:
            return _listen_at(family, address, port)
        except NoPortError as error:
            if not _is_taken(error):
                raise
    raise NoPortError(no_port_text(ports))


class Listener:
    """A socket that listens at `address` (host, port) until `close`."""

    def __init__(self, host: str, ports: Ports | None) -> None:
        """As `listen`, and NoPortError as there."""
        self._socket = listen(host, ports)
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def fileno(self) -> int:
        """For whoever waits for connections and other things at once."""
        return self._socket.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection and its peer's address. OSError where there can be none, such as
        after `close`."""
        return self._socket.accept()

    def pause(self, seconds: float) -> None:
        """Wait so long, but not beyond `close`."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Stop listening, and wake who accepts in another thread."""
        self._closed.set()
        with contextlib.suppress(OSError):  # closed before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def no_port_text(ports: Ports) -> str:
    """That none of these is free here, who holds them, and what to do."""
    return (
        f"all {len(ports)} ports of {ports} are taken on {socket.gethostname()}"
        f"{_holders(ports)}; widen `ports` in the job file (or DOUGONG_PORTS), or free some"
    )


def fading(ports: Iterable[int]) -> list[int]:
    """Those that only connections of an earlier listener hold, for a minute after their end (the
    TIME_WAIT of RFC 9293). None where the system does not tell."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return []
    states: dict[int, set[str]] = {}
    for entry in connections:
        if entry.laddr:
            states.setdefault(entry.laddr.port, set()).add(entry.status)
    return [
        port for port in ports if psutil.CONN_LISTEN not in states.get(port, {psutil.CONN_LISTEN})
    ]


def _resolve(host: str) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise NoPortError(f"cannot listen on {host} of {socket.gethostname()}: {error}") from error
    family, _, _, _, address = found[0]
    return family, address


def _listen_at(family: int, address: tuple[Any, ...], port: int) -> socket.socket:
    # Behind host and port an IPv6 address says its interface.
    host, _, *scope = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A connection of an earlier run that is still fading away does not hold its port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port, *scope))
        sock.listen(BACKLOG)  # that somebody else listens there may show only now
    except OSError as error:
        sock.close()
        raise NoPortError(
            f"cannot listen on {show_address(str(host), port)} of {socket.gethostname()}: {error}"
        ) from error
    return sock


def _is_taken(error: NoPortError) -> bool:
    cause = error.__cause__
    # EACCES: the system keeps this one port for somebody (ip_local_reserved_ports, a policy).
    return isinstance(cause, OSError) and cause.errno in (errno.EADDRINUSE, errno.EACCES)


def _holders(ports: Ports) -> str:
    """Who listens on them, as a part of a sentence; only root sees everybody's."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    found = Counter[int]()
    for entry in connections:
        # A listener is bound, so that its end here has an address.
        if entry.status == psutil.CONN_LISTEN and entry.pid is not None and entry.laddr:
            found[entry.pid] += entry.laddr.port in ports
    words = []
    for pid, count in found.most_common(_MOST_HOLDERS):
        if count:
            words.append(f"{count} by process {pid}{_name_of(pid)}")
    return f" ({', '.join(words)})" if words else ""


def _name_of(pid: int) -> str:
    try:
        return f" ({psutil.Process(pid).name()})"
    except psutil.Error:
        return ""
