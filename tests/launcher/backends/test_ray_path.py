"""Whether large messages reach a node of Ray, told from its HTTP/2."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.ray_path import narrow_words, takes_large

QUICK = dataclasses.replace(DEADLINES, path_s=0.5)
SETTINGS, PING_ANSWER = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x08\6\1\0\0\0\0" + bytes(8)
SMALL, LARGE = 24 + 9 + 17, 4 * (9 + 16384) + 17
"""Bytes of what is sent first: the preface, settings and a ping; then 64 KiB and a ping."""
Play = Callable[[Callable[[socket.socket], object]], int]


@pytest.fixture
def play() -> Iterator[Play]:
    """A listener that does what it is given with each connection; its port."""
    listeners = []

    def start(do: Callable[[socket.socket], object]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            with contextlib.suppress(OSError):  # at the end of the test the listener is closed
                while True:
                    line, _ = listener.accept()
                    answer(line)

        def answer(line: socket.socket) -> None:
            with line:
                do(line)
                line.settimeout(5)
                while line.recv(1 << 16):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def test_who_answers_behind_a_large_message_takes_it(play: Play) -> None:
    def answer(line: socket.socket) -> None:
        line.sendall(SETTINGS)
        line.recv(SMALL, socket.MSG_WAITALL)
        line.sendall(PING_ANSWER)
        line.recv(LARGE, socket.MSG_WAITALL)
        line.sendall(SETTINGS + PING_ANSWER)

    assert takes_large("127.0.0.1", play(answer), QUICK)


def test_who_answers_small_messages_alone_does_not(play: Play) -> None:
    def answer(line: socket.socket) -> None:
        line.sendall(SETTINGS + PING_ANSWER)

    assert not takes_large("127.0.0.1", play(answer), QUICK)


@pytest.mark.parametrize("do", [lambda line: line.sendall(SETTINGS), lambda line: line.sendall(b"220 mail\r\n")])
def test_whoever_does_not_answer_at_all_is_another_trouble(play: Play, do: Callable[[socket.socket], object]) -> None:
    assert takes_large("127.0.0.1", play(do), QUICK)


def test_what_is_said_of_a_narrow_network_names_what_to_set() -> None:
    said = narrow_words("127.0.0.1", 4711, DEADLINES)
    assert said.startswith("takes small messages at 127.0.0.1:4711, and no 64 KiB within 2 s (fault.deadlines.path_s)")
    assert f"(lo, MTU {psutil.net_if_stats()['lo'].mtu} here); `ip link set dev lo mtu 1500` here and there" in said


def test_nobody_there_is_another_trouble() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert takes_large("127.0.0.1", port, QUICK)
