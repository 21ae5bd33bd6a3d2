"""Runs of the small job by the command line, on this machine or on hosts of a lab, and the faults
that their job file cannot order."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from dougong.control.environment import child_environment
from dougong.control.processes import die_with_parent
from dougong.deadlines import Deadlines
from dougong.job.drills.vocabulary import known_fault
from dougong.records.directory import RunDir
from dougong.testing import LabError
from dougong.tools.drill.hosts import LABEL, DrillHosts
from dougong.tools.drill.leftovers import (
    MARK,
    left_behind,
    marked_processes,
    shared_memory,
    sockets_in,
)
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.score import Struck, drills_of
from dougong.tools.drill.small_job import STEPS, islands, small_job
from dougong.tools.drill.strike import MemoryOfRun, strike

_LAST_STEPS = 8


def comes_from_outside(fault: PlannedFault) -> bool:
    """Whether no job file can order it: it comes so long after another one, or takes root."""
    row = known_fault(fault.fault)
    return fault.after_s is not None or row is None or bool(row.refusal)


def takes_hosts(planned: Sequence[PlannedFault]) -> bool:
    """Whether it can be done in a lab alone."""
    rows = [known_fault(fault.fault) for fault in planned]
    return any(row is not None and "hosts" in row.needs for row in rows)


def takes_audit(planned: Sequence[PlannedFault]) -> bool:
    """Whether one of them is seen by nobody who does not compute the step again."""
    rows = [known_fault(fault.fault) for fault in planned]
    return any(row is not None and row.is_silent for row in rows)


class SmallRun:
    """A run on this machine, and the faults that come from outside. `struck`: these, so far;
    `is_hung`: it had to be ended. `is_audited`: every step is computed twice; it is where that is
    what a fault takes to be seen."""

    def __init__(
        self,
        path: Path,
        planned: Sequence[PlannedFault],
        deadlines: Deadlines,
        is_audited: bool | None = None,
    ) -> None:
        self.mark = secrets.token_hex(8)
        self.run_dir = RunDir(path)
        self.struck: list[Struck] = []
        self.is_hung = False
        self._path, self._planned, self._deadlines = path, tuple(planned), deadlines
        self._ordered = [fault for fault in planned if not comes_from_outside(fault)]
        self._is_audited = takes_audit(planned) if is_audited is None else is_audited
        self._memory = MemoryOfRun()
        self._shared_before = shared_memory()
        self._output = path.with_suffix(".out")

    def begin(self) -> None:
        """Start it, anew where one was cut off before its end."""
        shutil.rmtree(self._path, ignore_errors=True)
        job = self._path.with_suffix(".yaml")
        values = small_job(self._ordered, is_audited=self._is_audited)
        job.write_text(yaml.safe_dump(values))
        words = [sys.executable, "-m", "dougong", "run", str(job)]
        ours = os.getpid()
        with self._output.open("w") as out:
            self._process = subprocess.Popen(
                [*words, "--no-ray", "--run-dir", str(self._path)],
                env=child_environment({MARK: self.mark}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(ours),  # a drill that is ended leaves no run
            )
        if any(fault.fault == "oom_kill" for fault in self._planned):
            self._memory.limit(self._process.pid)

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text(errors="replace")

    def finish(self) -> None:
        """Wait for its end and that of its processes; strike meanwhile. What outlives its time is
        ended, and counts as hung."""
        until = time.monotonic() + self._deadlines.drill_run_s
        while self.status is None and time.monotonic() < until:
            self._strike_what_is_due()
            time.sleep(self._deadlines.exit_poll_every_s)
        if self.status is None:
            self.is_hung = True
            self._end()
        until = time.monotonic() + self._deadlines.kill_s
        while self._living() and time.monotonic() < until:
            time.sleep(self._deadlines.exit_poll_every_s)
        self._memory.close()

    def left(self) -> list[str]:
        """What it has left behind, in words. Call after `finish`."""
        return left_behind(self.mark, self._path, self._shared_before)

    def clear_away(self) -> None:
        """Nothing is kept of it. Call after `left`."""
        shutil.rmtree(self._path, ignore_errors=True)
        for path in (self._output, self._path.with_suffix(".yaml")):
            path.unlink(missing_ok=True)

    def _living(self) -> object:
        return marked_processes(self.mark)

    def _end(self) -> None:
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(self._deadlines.kill_s)

    def _strike_what_is_due(self) -> None:
        """The next fault of those from outside, whatever the run is at by then."""
        outside = [n for n, fault in enumerate(self._planned) if comes_from_outside(fault)]
        if len(self.struck) == len(outside) or not self.run_dir.events_file.exists():
            return
        number = outside[len(self.struck)]
        if self._is_due(number):
            struck = self._strike(self._planned[number])
            self.struck += [] if struck is None else [struck]  # else it comes with the next look

    def _is_due(self, number: int) -> bool:
        fault = self._planned[number]
        step = max((row["step"] for row in self.run_dir.read_last_metrics()), default=0)
        if fault.after_s is None:
            assert fault.at_step is not None
            return step >= fault.at_step - 1
        before = self._planned[number - 1]
        come = [*drills_of(self.run_dir.read_events()), *self.struck]
        at = [one.at for one in come if (one.fault, one.worker) == (before.fault, before.worker)]
        if not at:
            return False
        # Sooner, where the run would end before.
        return time.monotonic() >= at[0] + fault.after_s or step >= STEPS - _LAST_STEPS

    def _strike(self, fault: PlannedFault) -> Struck | None:
        if fault.fault == "oom_kill":
            return self._memory.exhaust(self.run_dir, fault.worker)
        return strike(self.run_dir, fault)


class HostsRun(SmallRun):
    """The same over Ray, on hosts that are struck themselves."""

    def __init__(
        self,
        path: Path,
        planned: Sequence[PlannedFault],
        deadlines: Deadlines,
        hosts: DrillHosts,
    ) -> None:
        super().__init__(path, planned, deadlines)
        self.run_dir = hosts.run_dir(path.name)
        self._hosts = hosts

    def begin(self) -> None:
        """Start it."""
        at_work = [{**island, "node": LABEL} for island in islands()]
        self._left_before = set(self._hosts.left())
        self._on_host = self._hosts.begin(self._path.name, small_job(islands=at_work))

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._on_host.status

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._on_host.output

    def finish(self) -> None:
        """As above; then its record is copied to this machine, and everything is as it was."""
        super().finish()
        there = self.run_dir.path
        self._left = [*self._living(), *(f"socket {path}" for path in sockets_in(there))]
        self._output.write_text(self.output)
        shutil.rmtree(self._path, ignore_errors=True)
        shutil.copytree(there, self._path, ignore=shutil.ignore_patterns("lease"))
        self.run_dir = RunDir(self._path)
        self._hosts.heal()

    def left(self) -> list[str]:
        """What it has left behind on any host, in words. Call after `finish`."""
        return self._left

    def _living(self) -> list[str]:
        return sorted(set(self._hosts.left()) - self._left_before)

    def _end(self) -> None:
        self._on_host.end()
        with contextlib.suppress(LabError):
            self._on_host.wait(self._deadlines.kill_s)

    def _strike(self, fault: PlannedFault) -> Struck | None:
        return self._hosts.strike(fault.fault, fault.worker, self.run_dir, fault.for_s)
