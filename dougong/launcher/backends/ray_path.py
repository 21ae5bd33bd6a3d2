"""Whether large messages reach a node of Ray. Where they do not, Ray itself hangs when it starts an
agent there, and says nothing."""

from __future__ import annotations

import contextlib
import socket
import time

import psutil

from dougong.addresses import show_address
from dougong.control.processes import interface_of
from dougong.deadlines import Deadlines
from dougong.launcher.agent.paths import source_address

_TRIES = 2
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _UNKNOWN = 4, 6, 0xFA
_ACK = 1
_HEAD_BYTES = 9
_PING_BYTES = bytes(8)
_LARGE_BYTES, _FRAME_BYTES = 64 * 1024, 16 * 1024  # a frame of 16 KiB is what everybody must take


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
            line.sendall(_PREFACE + _frame(_SETTINGS, b"") + _frame(_PING, _PING_BYTES))
            if not _hears_ping(line, end):
                return True
            filler = _frame(_UNKNOWN, bytes(_FRAME_BYTES)) * (_LARGE_BYTES // _FRAME_BYTES)
            line.sendall(filler + _frame(_PING, _PING_BYTES))
            return _hears_ping(line, time.monotonic() + deadlines.path_s)
    except TimeoutError:
        return False
    except OSError:
        return True


def _frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 0]) + payload


def _hears_ping(line: socket.socket, end: float) -> bool:
    """Whether the answer to a ping comes, among other frames."""
    with contextlib.suppress(TimeoutError, EOFError):
        while True:
            head = _read(line, _HEAD_BYTES, end)
            _read(line, int.from_bytes(head[:3], "big"), end)
            if head[3] == _PING and head[4] & _ACK:
                return True
    return False


def _read(line: socket.socket, num_bytes: int, end: float) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        line.settimeout(left_s)
        more = line.recv(num_bytes - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
