"""A fork server seen from its agent: starting, forking, killing, ending."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dougong.control.fork_messages import ChildExited, Forked, ForkRequest, ServerBroken, ServerReady, StartServer
from dougong.control.processes import process_exists
from dougong.control.tasks import InspectTask
from dougong.control.worker_messages import ModelFound, WorkerRaised
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.job.schema import Job
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.fork_client import ForkServer
from dougong.storage.worker_log import WorkerLog
from dougong.storage.writer import StorageWriter
from tests.launcher.toyrun import toy_job, wait_for

JOB = Job.model_validate(toy_job())
INSPECT = InspectTask("tests.launcher.entries:inspect", JOB)
SLEEP = InspectTask("time:sleep", JOB)  # a job is no number of seconds: it raises
HANG = InspectTask("tests.launcher.agent.test_fork_client:hang", JOB)


def hang(job: Job, known: object = None) -> None:
    """A worker that neither ends nor answers."""
    signal.pause()


@contextlib.contextmanager
def started(modules: tuple[str, ...] = ("tests.launcher.entries",)) -> Iterator[ForkServer]:
    server = ForkServer({"DOUGONG_TEST": "1"}, StartServer(modules, DEADLINES), None)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with started() as made:
        assert made.channel.receive(60) == ServerReady()
        yield made


def fork(server: ForkServer, task: InspectTask, folder: Path, number: int = 1) -> tuple[Child, int]:
    """One worker of generation 0, and its process number."""
    child = Child.open("east/0", 0, task, WorkerLog(folder / f"{number}.log", StorageWriter("logs")), DEADLINES)
    server.fork(ForkRequest(number, 0, "east/0", "127.0.0.1", task), child.worker_ends)
    child.close_worker_ends()
    forked = server.channel.receive(30)
    assert isinstance(forked, Forked)
    assert forked.number == number
    return child, forked.pid


def test_a_worker_is_forked_answers_and_is_reaped(server: ForkServer, tmp_path: Path) -> None:
    child, pid = fork(server, INSPECT, tmp_path)
    assert isinstance(child.channel.receive(30), ModelFound)
    assert server.channel.receive(30) == ChildExited(pid, 0)
    assert not process_exists(pid)
    child.close()


def test_an_exception_is_described_and_printed(server: ForkServer, tmp_path: Path) -> None:
    child, pid = fork(server, SLEEP, tmp_path)
    raised = child.channel.receive(30)
    assert isinstance(raised, WorkerRaised)
    assert raised.type == "TypeError"
    assert server.channel.receive(30) == ChildExited(pid, 1)
    child.read_output()
    log = tmp_path / "1.log"
    wait_for(lambda: log.exists() and "TypeError" in log.read_text(), "the log is written", 10)
    child.close()


def test_kill_ends_a_worker_and_one_that_is_gone_is_no_error(server: ForkServer, tmp_path: Path) -> None:
    child, pid = fork(server, HANG, tmp_path)
    server.kill(pid)
    assert server.channel.receive(30) == ChildExited(pid, -signal.SIGKILL)
    server.kill(pid)
    other, second = fork(server, INSPECT, tmp_path, 2)
    assert server.channel.receive(30) == ChildExited(second, 0)
    child.close()
    other.close()


def test_closing_ends_the_server_and_its_workers(tmp_path: Path) -> None:
    with started() as server:
        server.channel.receive(60)
        child, pid = fork(server, HANG, tmp_path)
    assert not process_exists(server.pid)
    wait_for(lambda: not process_exists(pid), "the worker ends", 10)
    child.close()


def test_a_stopped_server_is_killed(tmp_path: Path) -> None:
    with started() as server:
        server.channel.receive(60)
        child, pid = fork(server, HANG, tmp_path)
        os.kill(server.pid, signal.SIGSTOP)
    assert not process_exists(server.pid)
    wait_for(lambda: not process_exists(pid), "the worker ends", 10)
    child.close()


def test_a_module_that_does_not_import_is_told() -> None:
    with started(("json", "no_such_module")) as server:
        broken = server.channel.receive(60)
        assert isinstance(broken, ServerBroken)
        assert "No module named 'no_such_module'" in broken.text
        with pytest.raises(EOFError, match=rf"the fork server \(pid {server.pid}\) closed the connection"):
            server.channel.receive(30)
        assert server.exit_text() == f"fork server (pid {server.pid}) ended with status 1"


def test_the_exit_of_a_server_that_still_lives_is_told_as_such() -> None:
    with started() as server:
        assert server.exit_text() == f"fork server (pid {server.pid}) closed its connection"


def test_a_directory_that_is_not_there_is_an_error_of_the_launch(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="cannot start"):
        ForkServer({}, StartServer((), DEADLINES), tmp_path / "nowhere")


def test_one_that_ends_before_it_is_told_anything_says_so_by_its_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.kill()
            self.wait(15)

    monkeypatch.setattr(subprocess, "Popen", Killed)
    with started() as server:
        with pytest.raises((EOFError, ConnectionError)):
            server.channel.receive(15)
        assert server.exit_text() == f"fork server (pid {server.pid}) was ended by SIGKILL"
