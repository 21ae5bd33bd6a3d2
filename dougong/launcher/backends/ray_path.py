"""Whether large messages reach a node of Ray. Where they do not, Ray itself hangs when it starts an
agent there, and says nothing."""

from __future__ import annotations

import contextlib
import socket
import time

import psutil

from dougong.addresses import show_address
from dougong.control.network.path_probe import LARGE_BYTES, TimedLine
from dougong.control.processes import interface_of
from dougong.deadlines import Deadlines
from dougong.launcher.agent.paths import source_address
from dougong.launcher.backends.http2 import (
    ACK,
    PING,
    PREFACE,
    SETTINGS,
    UNKNOWN,
    frame,
    read_head,
)

_TRIES = 2
_PING_BYTES = bytes(8)
_FRAME_BYTES = 16 * 1024  # a frame of 16 KiB is what everybody must take


def narrow_words(host: str, port: int, deadlines: Deadlines) -> str:
    """What is wrong with a node at which only small messages arrive, and what to set."""
    interface = interface_of(source_address(host)) or "INTERFACE"
    stats = psutil.net_if_stats().get(interface)
    mtu = f", MTU {stats.mtu} here" if stats is not None else ""
    return (
        f"takes small messages at {show_address(host, port)}, and no 64 KiB within "
        f"{deadlines.words('path_s')}: the network between drops packets as large as the machines "
        f"send ({interface}{mtu}); `ip link set dev {interface} mtu 1500` here and there, or set "
        "on the switch what the machines have"
    )


def takes_large(host: str, port: int, deadlines: Deadlines) -> bool:
    """Whether 64 KiB arrive, at the second try at the latest: a machine may be busy.

    False where whoever speaks gRPC there answers, and no more after 64 KiB: the network between
    drops packets as large as the machines send. True as well where nobody answers at all: that is
    another trouble.

    HTTP/2 (RFC 9113): frames of an unknown type are passed over, a ping is answered in its turn.
    """
    return any(_try(host, port, deadlines) for _ in range(_TRIES))


def _try(host: str, port: int, deadlines: Deadlines) -> bool:
    end = time.monotonic() + deadlines.path_s
    try:
        with socket.create_connection((host, port), deadlines.path_s) as line:
            line.sendall(PREFACE + frame(SETTINGS, b"") + frame(PING, _PING_BYTES))
            if not _hears_ping(line, end):
                return True
            filler = frame(UNKNOWN, bytes(_FRAME_BYTES)) * (LARGE_BYTES // _FRAME_BYTES)
            end = time.monotonic() + deadlines.path_s
            TimedLine(line, end).send_filling(filler + frame(PING, _PING_BYTES))
            return _hears_ping(line, end)
    except TimeoutError:
        return False
    except OSError:
        return True


def _hears_ping(sock: socket.socket, end: float) -> bool:
    """Whether the answer to a ping comes, among other frames."""
    line = TimedLine(sock, end)
    with contextlib.suppress(TimeoutError, EOFError):
        while True:
            head = read_head(line)
            line.receive(head.length)
            if head.kind == PING and head.flags & ACK:
                return True
    return False
