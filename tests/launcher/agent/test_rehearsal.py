"""An agent does to its workers, to its fork server and to itself what a drill says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dougong.control.messages import InflictFault
from dougong.control.progress import OrderedFault
from dougong.control.tasks import InspectTask
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.rehearsal import inflict_on
from dougong.storage.worker_log import WorkerLog
from dougong.storage.writer import StorageWriter
from tests.launcher.toyrun import toy_job


@dataclass
class Server:
    """A fork server as far as a drill knows one."""

    pid: int
    signals: list[tuple[int, int]] = field(default_factory=list)

    def signal(self, pid: int, number: int) -> None:
        self.signals.append((pid, number))


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    task = InspectTask("x:y", Job.model_validate(toy_job()))
    made = Child.open("east/1", 3, task, WorkerLog(tmp_path / "log", StorageWriter("logs")), DEADLINES)
    made.pid = 4_000_000  # nobody has this number
    yield made
    made.close_worker_ends()
    made.close()


@pytest.mark.parametrize(("fault", "number"), [("kill", 9), ("segfault", 11), ("notice", 15), ("stop", 19)])
def test_signals_go_to_the_worker_through_the_fork_server(child: Child, fault: str, number: int) -> None:
    server: Any = Server(1)
    inflict_on(InflictFault(3, "east/1", fault), [child], server)
    assert server.signals == [(child.pid, number)]


def test_what_only_the_worker_can_do_waits_in_its_vector(child: Child) -> None:
    server: Any = Server(1)
    inflict_on(InflictFault(3, "east/1", "hold_interpreter", 2.0), [child], server)
    assert child.vector.ordered == child.look(child.vector.read(), 0.0).ordered == "hold_interpreter"
    assert server.signals == [] and child.vector.take_fault() == OrderedFault("hold_interpreter", 2.0)


def test_a_worker_that_has_ended_meanwhile_is_nobodys(child: Child) -> None:
    server: Any = Server(1)
    inflict_on(InflictFault(3, "east/0", "kill"), [child], server)
    child.pid = None
    inflict_on(InflictFault(3, "east/1", "kill"), [child], server)
    assert server.signals == []


def test_a_fork_server_is_stopped_and_killed(child: Child) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    server: Any = Server(process.pid)
    inflict_on(InflictFault(3, "east/1", "stop_fork_server"), [child], server)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    inflict_on(InflictFault(3, "east/1", "kill_fork_server"), [child], server)
    assert process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("fault", ["kill_agent", "stop_agent"])
def test_an_agent_does_it_to_itself(child: Child, fault: str) -> None:
    pid = os.fork()
    if pid == 0:
        server: Any = Server(1)
        inflict_on(InflictFault(3, "east/1", fault), [child], server)
        os._exit(5)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if fault == "kill_agent":
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    assert os.WIFSTOPPED(status)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
