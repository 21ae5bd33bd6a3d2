"""How a controller and a backend's process get a pair of sockets of their own."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator

import pytest
from dougong.control.processes import open_pidfd
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.process.handover import Handover, hand_line
from dougong.launcher.backends.process.messages import Awaiting
from dougong.launcher.kept.keeping import KeptProcess

Ends = tuple[KeptProcess, Handover]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A controller's and its process's; this process is both."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        kept = KeptProcess("backend", os.getpid(), open_pidfd(os.getpid()), ours)
        yield kept, Handover(theirs)
        kept.close()


def test_each_controller_has_a_pair_of_its_own(ends: Ends) -> None:
    kept, handover = ends
    for text in ("first", "second"):
        controller = hand_line(kept, DEADLINES)
        line = handover.take_line(DEADLINES)
        assert line is not None
        controller.send(Awaiting(f"half of what the {text} has to say"))
        assert line.receive() == Awaiting(f"half of what the {text} has to say")
        controller.send(Awaiting("and what nobody reads"))
        controller.close()
        line.close()


def test_that_it_waits_is_said_once_for_each_controller(ends: Ends) -> None:
    kept, handover = ends
    assert not kept.waits(0.0)
    handover.say_waiting()
    assert kept.waits(5.0) and not kept.waits(0.0)


def test_nobody_who_could_hand_it_a_line_is_left_or_does_so_in_time(ends: Ends) -> None:
    kept, handover = ends
    assert handover.take_line(dataclasses.replace(DEADLINES, next_controller_s=0.0)) is None
    kept.hang_up()
    assert handover.take_line(DEADLINES) is None
    with pytest.raises(EOFError):
        hand_line(kept, DEADLINES).receive()
