"""HOST:PORT, as the address of a cluster's head is written."""

from __future__ import annotations

import ipaddress


def split_address(address: str) -> tuple[str, int] | None:
    """(host, port) of HOST:PORT or [HOST]:PORT; None for anything else."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal()) or "/" in host:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None  # an IPv6 address without brackets: where it ends nobody knows
    return (host, int(port)) if 0 < int(port) < 1 << 16 else None


def is_loopback(host: str) -> bool:
    """Whether every machine takes this host for itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
