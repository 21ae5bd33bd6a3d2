"""Signals from outside reach the process that is meant, as the run's status has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dougong.control.progress import OrderedFault, ProgressVector
from dougong.launcher.agent.fork_server import STANDS_BY, TITLE
from dougong.records.directory import RunDir
from dougong.records.status import RunStatus, WorkerState
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.strike import MemoryOfRun, pid_of, spoil, strike
from tests.launcher.toyrun import wait_for


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield process
    process.kill()
    process.wait()


def run_of(tmp_path: Path, pid: int) -> RunDir:
    """A run whose worker is this process."""
    run = RunDir.create(tmp_path / "run")
    worker = WorkerState(name="east/0", role="both", rank=0, host="", pid=pid, device="cpu", alive=True)
    run.write_status(RunStatus(job="x", state="RUNNING", workers=(worker,)))
    return run


def test_who_is_killed(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    run = run_of(tmp_path, victim.pid)
    assert (pid_of(run, "east/0"), pid_of(run, "west/0")) == (victim.pid, None)
    assert strike(run, PlannedFault("kill", "west/0", after_s=0.0)) is None
    struck = strike(run, PlannedFault("segfault", "east/0", after_s=0.0))
    assert struck is not None and (struck.fault, struck.worker) == ("segfault", "east/0")
    assert victim.wait(30) == -signal.SIGSEGV
    assert strike(run, PlannedFault("kill", "east/0", after_s=0.0)) is None, "it has ended"


def test_who_is_stopped_goes_on_after_its_time(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    strike(run_of(tmp_path, victim.pid), PlannedFault("stop", "east/0", after_s=0.0, for_s=0.3))
    process = psutil.Process(victim.pid)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
    wait_for(lambda: process.status() != psutil.STATUS_STOPPED, "it goes on")


def test_a_number_is_spoilt_by_an_order_in_the_workers_own_vector(tmp_path: Path) -> None:
    vector = ProgressVector.create()
    run = run_of(tmp_path, os.getpid())
    struck = strike(run, PlannedFault("flip_gradient", "east/0", after_s=0.0))
    assert struck is not None and (struck.fault, struck.worker) == ("flip_gradient", "east/0")
    assert vector.take_fault() == OrderedFault("flip_gradient") and vector.take_fault() is None
    assert spoil(run, "flip_gradient", "west/0") is None
    vector.close()
    assert spoil(run, "flip_gradient", "east/0") is None, "it has no vector any more"


def test_a_run_without_memory_of_its_own_has_none_to_exhaust(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    memory = MemoryOfRun()
    assert memory.exhaust(run_of(tmp_path, victim.pid), "east/0") is None
    memory.close()
    assert victim.poll() is None


def test_of_fork_servers_the_one_that_forks_is_struck_first(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    """The worker's parent, here this process, has both."""
    code = (
        "import sys; from dougong.control.processes import title_process; title_process(sys.argv[1]); print(); input()"
    )
    pipe, servers = subprocess.PIPE, []
    for title in (f"{TITLE} east {STANDS_BY}", f"{TITLE} east"):
        words = [sys.executable, "-c", code, title]
        servers.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True))
        assert servers[-1].stdout is not None and servers[-1].stdout.readline()
    run = run_of(tmp_path, victim.pid)
    for server in reversed(servers):
        struck = strike(run, PlannedFault("kill_fork_server", "east/0", after_s=0.0))
        assert struck is not None and server.wait(30) == -signal.SIGKILL
        server.communicate()
    assert strike(run, PlannedFault("stop_fork_server", "east/0", after_s=0.0)) is None
