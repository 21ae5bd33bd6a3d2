"""The fork server's process, spoken to byte by byte."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dougong.control.channel import Channel
from dougong.control.environment import child_environment
from dougong.control.fork_messages import (
    ChildExited,
    Forked,
    ForkRequest,
    KillRequest,
    ServerBroken,
    ServerReady,
    StartServer,
)
from dougong.control.messages import Message, Ping, encode
from dougong.control.processes import process_exists
from dougong.control.tasks import InspectTask
from dougong.control.worker_messages import ModelFound, WorkerRaised
from dougong.deadlines import DEADLINES
from dougong.errors import NumericsError
from dougong.job.schema import Job
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.fork_server import LENGTH
from dougong.launcher.controller.config import TRAINING
from dougong.storage.worker_log import WorkerLog
from dougong.storage.writer import StorageWriter
from tests.launcher.toyrun import ROOT, toy_job, wait_for

JOB = Job.model_validate(toy_job())
INSPECT = InspectTask("tests.launcher.entries:inspect", JOB)
HANG = InspectTask("tests.launcher.agent.test_fork_client:hang", JOB)
START = StartServer(("tests.launcher.entries",), dataclasses.replace(DEADLINES, exit_poll_every_s=0.01))


PLUGIN = """\
import os, pathlib, torch
with pathlib.Path({path!r}).open("a") as file:
    file.write(f"{{os.getpid()}}\\n")
if {is_broken}:
    raise ImportError("libascendcl.so: cannot open shared object file")
"""
"""A vendor's plug-in that writes down which process imports it."""


def opens_npu(job: Job, known: object = None) -> None:
    """A worker that loads its vendor's plug-in, and says by a NumericsError what transformers holds of it."""
    importlib.import_module("torch_npu")
    from transformers.utils import is_torch_npu_available

    raise NumericsError(f"pid {os.getpid()}, available: {is_torch_npu_available()}")


class Raw:
    """One fork server and the bare socket to it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.socket, far = socket.socketpair()
        command = [sys.executable, "-m", "dougong.launcher.agent.fork_server", str(far.fileno()), str(os.getpid())]
        environment = child_environment({})
        if folder is not None:
            environment["PYTHONPATH"] += f"{os.pathsep}{folder}"
        with far:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                pass_fds=[far.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        self.channel = Channel(self.socket, "the fork server", DEADLINES)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        frame = encode(message)
        socket.send_fds(self.socket, [LENGTH.pack(len(frame))], list(fds))
        self.socket.sendall(frame)

    def fork(self, task: InspectTask, log: Path, number: int = 1) -> tuple[Child, int]:
        child = Child.open("east/0", 0, task, WorkerLog(log, StorageWriter("logs")), DEADLINES)
        self.send(ForkRequest(number, 0, "east/0", "127.0.0.1", task), child.worker_ends)
        child.close_worker_ends()
        forked = self.channel.receive(30)
        assert isinstance(forked, Forked)
        return child, forked.pid

    def errors(self) -> str:
        """What it has printed by its end."""
        self.process.wait(30)
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.channel.close()


@pytest.fixture
def raw() -> Iterator[Raw]:
    made = Raw()
    yield made
    made.close()


def ready(raw: Raw) -> Raw:
    raw.send(START)
    assert raw.channel.receive(60) == ServerReady()
    return raw


def test_a_request_may_come_byte_by_byte(raw: Raw, tmp_path: Path) -> None:
    ready(raw)
    child = Child.open("east/0", 0, INSPECT, WorkerLog(tmp_path / "0.log", StorageWriter("logs")), DEADLINES)
    frame = encode(ForkRequest(5, 0, "east/0", "127.0.0.1", INSPECT))
    header = LENGTH.pack(len(frame))
    socket.send_fds(raw.socket, [header[:1]], list(child.worker_ends))
    for piece in (header[1:3], header[3:], frame[:7], frame[7:]):
        raw.socket.sendall(piece)
    child.close_worker_ends()
    forked = raw.channel.receive(30)
    assert isinstance(forked, Forked)
    assert forked.number == 5
    assert isinstance(child.channel.receive(30), ModelFound)
    assert raw.channel.receive(30) == ChildExited(forked.pid, 0)
    child.close()


def tell(model_types: Sequence[str]) -> None:
    """What a fork server is to call."""
    print("called for", *model_types, file=sys.stderr, flush=True)


def test_a_function_is_called_with_the_jobs_model_types(raw: Raw) -> None:
    modules = ("tests.launcher.agent.test_fork_server:tell", *START.modules)
    raw.send(dataclasses.replace(START, modules=modules, model_types=("qwen3_moe", "other")))
    assert raw.channel.receive(60) == ServerReady()
    raw.channel.close()
    assert "called for qwen3_moe other" in raw.errors()


def test_what_a_worker_has_started_is_ended_with_it(raw: Raw, tmp_path: Path) -> None:
    ready(raw)
    leaver = InspectTask("tests.launcher.agent.test_fork_server:leave_a_child", JOB)
    child, pid = raw.fork(leaver, tmp_path / "0.log")
    assert raw.channel.receive(30) == ChildExited(pid, 0)
    child.read_output()
    log = tmp_path / "0.log"
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"), "the log is written", 10)
    grandchild = int(log.read_text().split()[-1])
    wait_for(lambda: not process_exists(grandchild), "what it started ends", 10)
    child.close()


def leave_a_child(job: Job, known: object = None) -> None:
    """Start something that goes on, and end."""
    print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
    os._exit(0)


def test_a_number_that_is_no_child_is_not_killed(raw: Raw, tmp_path: Path) -> None:
    ready(raw)
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    raw.send(KillRequest(stranger.pid))
    child, pid = raw.fork(HANG, tmp_path / "0.log")  # answered after the request before it
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait(10)
    raw.send(KillRequest(pid))
    assert raw.channel.receive(30) == ChildExited(pid, -signal.SIGKILL)
    child.close()


def test_a_terminals_signals_do_not_reach_it(raw: Raw, tmp_path: Path) -> None:
    ready(raw)
    for number in (signal.SIGINT, signal.SIGTERM):
        raw.process.send_signal(number)
    child, pid = raw.fork(INSPECT, tmp_path / "0.log")
    assert raw.channel.receive(30) == ChildExited(pid, 0)
    child.close()


def test_its_workers_end_with_its_agent(raw: Raw, tmp_path: Path) -> None:
    ready(raw)
    child, pid = raw.fork(HANG, tmp_path / "0.log")
    raw.channel.close()
    assert raw.process.wait(30) == 0
    wait_for(lambda: not process_exists(pid), "the worker ends", 10)
    child.close()


def test_a_module_that_does_not_import_is_told(raw: Raw) -> None:
    raw.send(dataclasses.replace(START, modules=("no_such_module",)))
    broken = raw.channel.receive(60)
    assert isinstance(broken, ServerBroken)
    assert "No module named 'no_such_module'" in broken.text
    assert raw.process.wait(30) == 1


def test_what_is_no_request_of_an_agent_ends_it_loudly(raw: Raw) -> None:
    ready(raw)
    raw.send(Ping())
    assert "agent: ping is not for a fork server" in raw.errors()
    assert raw.process.returncode == 1


def test_a_malformed_request_ends_it_loudly(raw: Raw) -> None:
    ready(raw)
    raw.socket.sendall(LENGTH.pack(4) + b"junk")
    assert "agent: not a message: b'junk'" in raw.errors()


def test_without_pidfd_it_sees_exits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without pidfd_open the zygote polls; the same module, told so by a stand-in for `os`."""
    (tmp_path / "sitecustomize.py").write_text("import os\nif hasattr(os, 'pidfd_open'):\n    del os.pidfd_open\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    raw = Raw()
    try:
        ready(raw)
        child, pid = raw.fork(InspectTask("no_such_module:f", JOB), tmp_path / "0.log")
        assert raw.channel.receive(30) == ChildExited(pid, 1)
        raised = child.channel.receive(10)
        assert isinstance(raised, WorkerRaised)
        assert raised.type == "ModuleNotFoundError"
        child.close()
    finally:
        raw.close()


AGENT = """
import os, time
from dougong.control.fork_messages import StartServer
from dougong.deadlines import Deadlines
from dougong.launcher.agent.fork_client import ForkServer
limits = Deadlines(agent_stopped_s=0.3, agent_silence_s=0.1, agent_look_every_s=0.05)
server = ForkServer({}, StartServer(("json",), limits, adopts=True, agent="east"), None)
server.channel.receive(60)
print(server.pid, flush=True)
time.sleep(100)
"""


def test_an_agent_that_stands_stopped_for_long_is_ended_with_all_that_it_has() -> None:
    """Whoever started it may be dead, and knows nothing of it."""
    agent = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    server = int(agent.stdout.readline())
    title = Path(f"/proc/{server}/cmdline").read_bytes().rstrip(b"\0")
    assert title == b"dougong fork-server east (stands by)"
    os.kill(agent.pid, signal.SIGSTOP)
    assert agent.wait(20) == -signal.SIGKILL
    wait_for(lambda: not process_exists(server), "its fork server ends with it", 10)
    agent.stdout.close()


@pytest.mark.parametrize("is_broken", [False, True])
def test_no_vendor_s_plug_in_is_imported_before_a_worker_opens_its_device(is_broken: bool, tmp_path: Path) -> None:
    """transformers would import torch_npu, and ask it for devices, which no fork survives; and one that is broken would
    end all workers of this machine, those of processors too."""
    record, package = tmp_path / "imported", tmp_path / "packages"
    package.mkdir()
    (package / "torch_npu.py").write_text(PLUGIN.format(path=str(record), is_broken=is_broken))
    raw = Raw(package)
    try:
        raw.send(dataclasses.replace(START, modules=TRAINING.preload))
        assert raw.channel.receive(120) == ServerReady()
        assert not record.exists()
        task = InspectTask("tests.launcher.agent.test_fork_server:opens_npu", JOB)
        child, pid = raw.fork(task, tmp_path / "0.log")
        raised = child.channel.receive(60)
        assert isinstance(raised, WorkerRaised)
        if is_broken:
            assert "libascendcl.so" in raised.message
        else:
            assert raised.message == f"pid {pid}, available: False"
        assert record.read_text().split() == [str(pid)]
        child.close()
    finally:
        raw.close()
