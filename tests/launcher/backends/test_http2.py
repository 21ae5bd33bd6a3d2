"""Frames of HTTP/2, against the bytes of RFC 9113."""

from __future__ import annotations

import socket
import time

import pytest
from dougong.control.network.path_probe import TimedLine
from dougong.launcher.backends.http2 import ACK, PING, SETTINGS, FrameHead, frame, read_head


def over_a_connection(data: bytes, limit_s: float = 5.0) -> FrameHead:
    """What is read of these bytes, after which the other end is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        taken, _ = listener.accept()
    with taken:
        with sender:
            sender.sendall(data)
        return read_head(TimedLine(taken, time.monotonic() + limit_s))


def test_a_frame_is_its_length_its_type_no_flags_and_the_whole_connection() -> None:
    assert frame(SETTINGS, b"") == bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    assert frame(PING, bytes(range(8))) == bytes([0, 0, 8, 6, 0, 0, 0, 0, 0, *range(8)])
    assert frame(PING, bytes(16384))[:3] == b"\x00\x40\x00"


def test_a_head_is_read_back() -> None:
    answer = bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + bytes(8)
    assert over_a_connection(answer) == FrameHead(8, PING, ACK)
    assert over_a_connection(frame(SETTINGS, bytes(300))) == FrameHead(300, SETTINGS, 0)


def test_a_head_that_does_not_come_whole() -> None:
    with pytest.raises(EOFError):
        over_a_connection(b"HTTP/1.1")
    with pytest.raises(TimeoutError):
        over_a_connection(frame(SETTINGS, b""), limit_s=0.0)
