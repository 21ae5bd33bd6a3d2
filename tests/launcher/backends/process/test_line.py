"""The line between a controller and its backend's process."""

from __future__ import annotations

import socket
import threading

import pytest
from dougong.control.messages import ProtocolError
from dougong.launcher.backends.process.line import BackendLine
from dougong.launcher.backends.process.messages import Awaiting, EndedAnswer


def test_messages_come_whole_however_long_they_are_until_the_other_end_is_gone() -> None:
    one, two = socket.socketpair()
    left, right = BackendLine(one, 5), BackendLine(two, 5)
    large = EndedAnswer(1, {"east": "x" * 1_000_000})
    sending = threading.Thread(target=lambda: [left.send(large), left.send(Awaiting("room"))])
    sending.start()
    assert right.receive() == large
    assert right.receive() == Awaiting("room")
    sending.join()
    left.close()
    with pytest.raises(EOFError):
        right.receive()
    with pytest.raises(OSError):
        right.send(large)


def test_an_end_that_does_not_read_holds_nobody_up_for_ever() -> None:
    one, two = socket.socketpair()
    with two, pytest.raises(OSError):
        BackendLine(one, 1).send(EndedAnswer(1, {"east": "x" * 10_000_000}))


def test_what_is_no_message_is_an_error_and_the_next_one_is_read() -> None:
    one, two = socket.socketpair()
    line = BackendLine(one, 5)
    two.sendall(b'nonsense\n{"kind": "awaiting", "text": "room"}\n')
    with pytest.raises(ProtocolError):
        line.receive()
    assert line.receive() == Awaiting("room")
    line.close()
    two.close()
