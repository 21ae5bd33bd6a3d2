"""What a command holds of its controllers' processes. Here they are small programs, and one process is command and
controller."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from dougong.control.processes import process_exists
from dougong.deadlines import DEADLINES
from dougong.launcher.kept.keeping import Keeping, KeptProcess

SHORT = dataclasses.replace(DEADLINES, agent_waits_s=0.2, agent_end_s=0.2)
WAITS = "import os, sys; os.write(0, b'.\\n'); sys.exit(7 if b'east' in os.read(0, 10000) else 0)"
ENDS = "import os, sys; sys.exit(len(os.read(0, 10000)))"
HANGS = "import signal; signal.pause()"


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    made = Keeping(SHORT)
    yield made
    made.close()


def started(program: str, keeping: Keeping) -> KeptProcess:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", program], stdin=theirs.fileno())
    agent = KeptProcess.of("east", process, ours)
    keeping.keep(agent)
    keeping.collect()
    return agent


def test_one_that_waits_is_given_what_it_is_to_serve_next() -> None:
    keeping = Keeping(DEADLINES)
    first = started(WAITS, keeping)
    taken = keeping.take("east")
    assert taken is not None and taken.pid == first.pid and taken.exit_words() is None
    assert taken.line is not None
    taken.line.sendall(b"east")
    assert taken.wait(20)
    assert taken.exit_words() == "its process ended"
    assert first.exit_words() == "its process ended with status 7"
    assert keeping.take("east") is None
    keeping.close()


def test_one_that_does_not_say_that_it_waits_is_ended(keeping: Keeping) -> None:
    agent = started(HANGS, keeping)
    assert keeping.take("east") is None
    assert agent.exit_words() == "its process was ended by SIGKILL"


def test_whom_the_next_controller_does_not_want_is_ended(keeping: Keeping) -> None:
    agent = started(HANGS, keeping)
    keeping.end_rest()
    assert not process_exists(agent.pid)


def test_of_a_name_the_newest_is_kept(keeping: Keeping) -> None:
    old, new = started(WAITS, keeping), started(HANGS, keeping)
    keeping.end_rest()
    assert new.exit_words() == "its process was ended by SIGKILL"
    assert old.waits(20)
    old.hang_up()
    assert old.wait(20) and old.status == 0


def test_without_another_controller_they_end_by_themselves_or_are_killed() -> None:
    keeping = Keeping(dataclasses.replace(SHORT, agent_end_s=20.0))
    by_itself = started(ENDS, keeping)
    keeping.close()
    assert by_itself.status == 0
    keeping = Keeping(SHORT)
    hung = started(HANGS, keeping)
    keeping.close()
    assert hung.exit_words() == "its process was ended by SIGKILL"


def test_one_that_has_no_other_controller_is_not_kept(keeping: Keeping) -> None:
    agent = started(HANGS, keeping)
    keeping.end_rest()
    agent.close()
    keeping.keep(agent)
    keeping.collect()
    assert keeping.take("east") is None
