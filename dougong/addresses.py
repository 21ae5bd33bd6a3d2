"""Network addresses as people read and type them. An IPv6 address has colons of its own, so that
brackets tell where its port begins."""

from __future__ import annotations

import ipaddress


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


def is_loopback(host: str) -> bool:
    """Whether every machine takes this host for itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
