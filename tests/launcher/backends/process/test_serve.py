"""The process in which a backend's calls are made, without and between controllers; its calls: test_proxy.py."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dougong.control.environment import child_environment
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.process.handover import hand_line
from dougong.launcher.backends.process.line import BackendLine
from dougong.launcher.backends.process.messages import (
    BackendSetup,
    DoneAnswer,
    EndedAnswer,
    EndedCall,
    ErrorAnswer,
    NodesCall,
    OpenAnswer,
    OpenCall,
    StartCall,
)
from dougong.launcher.backends.ray_choice import OWN_RAY
from dougong.launcher.kept.keeping import KeptProcess
from tests.launcher.backends.process.fake import ENTRY
from tests.launcher.backends.process.test_proxy import EAST, SETTINGS
from tests.launcher.toyrun import wait_for

SHORT = dataclasses.replace(DEADLINES, next_controller_s=1.0)


class Serving:
    """The process, and what hands it lines."""

    def __init__(self, folder: Path) -> None:
        self.setup = BackendSetup(ENTRY, OWN_RAY, DEADLINES, str(folder), None, ())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "dougong.launcher.backends.process.serve", str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(command, env=child_environment({}), pass_fds=[theirs.fileno()])
        self.kept = KeptProcess.of("backend", self.process, ours)

    def controller(self, setup: BackendSetup | None = None) -> BackendLine:
        """A controller's line, over which it has said what it wants."""
        line = hand_line(self.kept, DEADLINES)
        line.send(setup or self.setup)
        return line


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    made = Serving(tmp_path)
    yield made
    made.kept.kill(DEADLINES)
    made.kept.close()


def test_one_controller_after_the_other_is_served(serving: Serving) -> None:
    first = serving.controller()
    first.send(OpenCall(1))
    assert first.receive() == OpenAnswer(1, "10.0.0.1")
    first.send(StartCall(2, (EAST,), {"east": SETTINGS}))
    first.receive()
    assert first.receive() == DoneAnswer(2)
    first.close()
    assert serving.kept.waits(10)
    second = serving.controller(dataclasses.replace(serving.setup, command=("resume",)))
    second.send(OpenCall(1))
    assert second.receive() == OpenAnswer(1, "10.0.0.1"), "opened once"
    second.send(EndedCall(2))
    assert second.receive() == EndedAnswer(2, {"east before": "east before ended"})
    second.close()
    serving.kept.hang_up()  # the command is gone, too
    assert serving.process.wait(10) == 1


def test_what_a_dead_controller_had_asked_for_is_no_answer_to_the_next(serving: Serving, tmp_path: Path) -> None:
    first = serving.controller()
    first.send(OpenCall(1))
    first.receive()
    (tmp_path / "wait").touch()
    first.send(NodesCall(2, ("waits",)))
    first.send(NodesCall(3, ("dies",)))
    first.close()
    assert serving.kept.waits(10)
    second = serving.controller()
    second.send(OpenCall(2))
    (tmp_path / "wait").unlink()
    assert second.receive() == OpenAnswer(2, "10.0.0.1")


@pytest.mark.slow
def test_a_controller_that_wants_another_backend_is_told(serving: Serving) -> None:
    serving.controller().close()
    assert serving.kept.waits(10)
    other = serving.controller(dataclasses.replace(serving.setup, deadlines=SHORT))
    other.send(OpenCall(1))
    answer = other.receive()
    assert isinstance(answer, ErrorAnswer) and answer.error.text == "another backend is served here"


@pytest.mark.slow
def test_one_that_is_followed_by_nobody_ends_in_time(serving: Serving) -> None:
    line = serving.controller(dataclasses.replace(serving.setup, deadlines=SHORT))
    line.close()
    assert serving.process.wait(20) == 1


def test_it_ends_with_those_who_could_hand_it_a_line_also_while_a_call_hangs(serving: Serving, tmp_path: Path) -> None:
    line = serving.controller()
    line.send(OpenCall(1))
    assert line.receive() == OpenAnswer(1, "10.0.0.1")
    line.send(NodesCall(2, ("hangs",)))
    wait_for((tmp_path / "hangs").exists, "the call is under way", 20)
    serving.kept.hang_up()
    line.close()
    assert serving.process.wait(10) == 1
