"""As much of HTTP/2, and so of gRPC, as a look at a server needs (RFC 9113)."""

from __future__ import annotations

from typing import NamedTuple

from dougong.control.network.path_probe import TimedLine

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How a client begins (section 3.4); its first frame is its settings, and so is a server's."""
SETTINGS, PING = 4, 6
UNKNOWN = 0xFA
"""A type of frame that nobody knows, and everybody passes over (section 4.1)."""
ACK = 1
_HEAD_BYTES = 9


class FrameHead(NamedTuple):
    """What a frame begins with (section 4.1); `length` bytes follow."""

    length: int
    kind: int
    flags: int


def frame(kind: int, payload: bytes) -> bytes:
    """A frame of the whole connection, without flags."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 0]) + payload


def read_head(line: TimedLine) -> FrameHead:
    """The head of the next frame. OSError, TimeoutError and EOFError as `TimedLine.receive`."""
    head = line.receive(_HEAD_BYTES)
    return FrameHead(int.from_bytes(head[:3], "big"), head[3], head[4])
