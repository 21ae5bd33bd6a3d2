"""Network addresses and ports as people read and type them. An IPv6 address has colons of its own,
so that brackets tell where its port begins."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

LOWEST_PORT = 1024
"""The system keeps those below for its own services."""
HIGHEST_PORT = 65535
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")

PER_WORKER = 5
"""What a worker listens on: a socket for each group of workers that it exchanges messages in."""
PER_AGENT = 1
OF_CONTROLLER = 2
"""Agents and clients, and the trial of the paths."""


def show_address(host: str, port: int) -> str:
    """`10.0.0.1:6379`, `node0:6379` or `[fd00::1]:6379`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_address(text: str) -> tuple[str, int]:
    """Host, without brackets, and port. `fd00::1:6379` is read as Ray prints it, the port behind
    the last colon. ValueError for what is no HOST:PORT."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 2**16
    if not (host and colon and is_port) or "[" in host or "]" in host or "/" in host:
        raise ValueError(f"{text} is no HOST:PORT")
    return host, int(port)


def is_address(text: str) -> bool:
    """Whether `read_address` reads it."""
    try:
        read_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether every machine takes this host for itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Ports:
    """TCP ports from `first` to `last`, both among them."""

    first: int
    last: int

    @staticmethod
    def read(text: str) -> Ports:
        """What `20000-20100` means. ValueError, with the rule, for anything else."""
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise ValueError("must be FIRST-LAST, such as 20000-20100")
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise ValueError(f"must begin with the lower port: {last}-{first}")
        if first < LOWEST_PORT or last > HIGHEST_PORT:
            raise ValueError(f"must lie between {LOWEST_PORT} and {HIGHEST_PORT}")
        return Ports(first, last)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def beginning_at(self, place: int) -> Iterator[int]:
        """All of them once, in a ring; `place`: any whole number, which says where it begins."""
        for index in range(len(self)):
            yield self.first + (place + index) % len(self)


def read_ports(text: str | None) -> Ports | None:
    """What a job's `ports` means; None: the system chooses."""
    return None if text is None else Ports.read(text)


def num_needed(workers: int, agents: int, with_controller: bool = False) -> int:
    """How many ports one run listens on, at most, on a machine with so many of them."""
    controller = OF_CONTROLLER if with_controller else 0
    return PER_WORKER * workers + PER_AGENT * agents + controller
