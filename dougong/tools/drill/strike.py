"""Faults that come from outside a run while it goes on: signals to its processes on this machine,
and numbers that a worker is told to compute wrongly.

What a job file can order is ordered there; this is for what comes so long after another fault,
whatever the run is at by then, and for what no job file may order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil

from dougong.control.processes import process_exists
from dougong.control.progress import VECTOR_FILE, OrderedFault, ProgressVector
from dougong.fault.self_inflicted import go_on_later, signal_for
from dougong.job.drills.vocabulary import known_fault
from dougong.launcher.agent.fork_server import STANDS_BY, TITLE
from dougong.records.directory import RunDir
from dougong.testing import MemoryGroup
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.score import Struck


def strike(run_dir: RunDir, fault: PlannedFault) -> Struck | None:
    """Do it, by a signal; None where nobody is there at this moment."""
    row = known_fault(fault.fault)
    if row is not None and row.is_silent:
        return spoil(run_dir, fault.fault, fault.worker)
    number = signal_for(fault.fault) or signal.SIGKILL
    pid = _victim(run_dir, fault.worker, "worker" if row is None else row.target)
    if pid is None:
        return None
    struck = Struck(fault.fault, fault.worker, time.monotonic())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    if number == signal.SIGSTOP and fault.for_s is not None:
        go_on_later(pid, fault.for_s)
    return struck


def spoil(run_dir: RunDir, name: str, worker: str) -> Struck | None:
    """Have a worker compute one number wrongly in its next step: into its own vector, as its agent
    would order it. None where it is not there at this moment."""
    place = _vector_of(pid_of(run_dir, worker))
    if place is None:
        return None
    try:
        vector = ProgressVector(os.open(place, os.O_RDWR))
    except OSError:
        return None  # it has just ended
    vector.order_fault(OrderedFault(name))
    vector.close()
    return Struck(name, worker, time.monotonic())


def _vector_of(pid: int | None) -> Path | None:
    """By what its process has it open."""
    with contextlib.suppress(OSError):
        entries = [] if pid is None else list(Path(f"/proc/{pid}/fd").iterdir())
        return next((entry for entry in entries if _is_vector(entry)), None)
    return None


def _is_vector(entry: Path) -> bool:
    try:
        return VECTOR_FILE in os.readlink(entry)
    except OSError:
        return False  # closed meanwhile


class MemoryOfRun:
    """The memory that a run on this machine has to itself, once it is told to have some. LabError
    where root's control groups are not to be had."""

    def __init__(self) -> None:
        self._group: MemoryGroup | None = None

    def limit(self, pid: int) -> None:
        """The run that begins with this process, and all that it starts, live apart."""
        self._group = MemoryGroup()
        self._group.adopt([pid])

    def exhaust(self, run_dir: RunDir, worker: str) -> Struck | None:
        """Let it run out, so that the kernel kills this worker; None where it is not there."""
        pid = pid_of(run_dir, worker)
        if self._group is None or pid is None:
            return None
        struck = Struck("oom_kill", worker, time.monotonic())
        try:
            self._group.exhaust(pid)
        finally:
            self._group.relax()
        return struck

    def close(self) -> None:
        """Nobody lives there any more."""
        if self._group is not None:
            self._group.close()


def pid_of(run_dir: RunDir, worker: str) -> int | None:
    """The worker's process, as the run's status has it; None where it does not live."""
    status = run_dir.read_status()
    for known in status.workers if status is not None else ():
        if known.name == worker and known.alive and known.pid and process_exists(known.pid):
            return known.pid
    return None


def _victim(run_dir: RunDir, worker: str, target: str) -> int | None:
    """The process that is the target: the worker, its parent, which is the agent, another child of
    that, its fork server, or the run's controller."""
    if target == "controller":
        controller = run_dir.read_controller()
        return None if controller is None else controller.pid
    pid = pid_of(run_dir, worker)
    if pid is None or target not in ("agent", "fork_server"):
        return pid
    try:
        agent = psutil.Process(pid).parent()
        if agent is None or target == "agent":
            return None if agent is None else agent.pid
        found = {}
        for child in agent.children():
            title = " ".join(child.cmdline())
            # A worker looks like the fork server of which it is a copy, but leads no session.
            if title.startswith(TITLE) and os.getsid(child.pid) == child.pid:
                found[STANDS_BY in title] = int(child.pid)
        return found.get(False, found.get(True))
    except (psutil.Error, OSError):
        pass  # it has just ended
    return None
