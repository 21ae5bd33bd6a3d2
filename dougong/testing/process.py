"""A command that runs in a host: what it prints, how it ends, and a deadline for it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from dougong.control.processes import process_exists
from dougong.deadlines import DEADLINES
from dougong.errors import DougongError


class LabError(DougongError):
    """The lab itself cannot do what it was asked: a tool or a right is missing, or a command in a
    host did not end in time."""


@dataclass(frozen=True)
class Done:
    """A command that has ended. `status`: its exit status, of a signal the negative number.
    `output`: both streams, in the order in which they were written."""

    status: int
    output: str
    seconds: float


class HostProcess:
    """A command that was started in a host. Its output goes to a file, so that it never waits for
    a reader, and daemons that it leaves behind may keep it open."""

    def __init__(
        self, host: str, words: Sequence[str], child: subprocess.Popen[bytes], log: Path
    ) -> None:
        """`child`: the process that waits for it outside, `nsenter`."""
        self._host, self._words, self._child, self._log = host, words, child, log
        self._began = time.monotonic()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._child.poll()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._began

    def wait(self, timeout_s: float) -> int:
        """Its exit status; past the limit it is killed, and LabError holds what it printed."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise LabError(
                f"{self._about()}: not ended within {timeout_s:g} s{self._tail()}"
            ) from None

    def wait_for(self, text: str, timeout_s: float) -> str:
        """Its output as soon as that holds `text`. LabError when it ends without, or past the
        limit; then it is killed."""
        until = time.monotonic() + timeout_s
        while text not in self.output:
            ended = self.status is not None
            if ended and text not in self.output:
                raise LabError(f"{self._about()}: ended without printing {text!r}{self._tail()}")
            if not ended and time.monotonic() > until:
                self.end()
                late = f"has not printed {text!r} within {timeout_s:g} s"
                raise LabError(f"{self._about()}: {late}{self._tail()}")
            time.sleep(DEADLINES.exit_poll_every_s)
        return self.output

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself. No error when it has ended."""
        pid = self._pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """SIGKILL to it and to those of its session that have not left its process group."""
        pid = self._pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            self._child.wait(DEADLINES.kill_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _pid(self) -> int | None:
        """The command's number as this machine counts: `nsenter` waits for it, its only child."""
        until = time.monotonic() + DEADLINES.lab_host_s
        while self._child.poll() is None and time.monotonic() < until:
            try:
                children = psutil.Process(self._child.pid).children()
            except psutil.NoSuchProcess:
                return None
            if children and process_exists(children[0].pid):
                return int(children[0].pid)
            time.sleep(DEADLINES.exit_poll_every_s)
        return None

    def _about(self) -> str:
        return f"{self._host}: `{shlex.join(self._words)}`"

    def _tail(self) -> str:
        return f"; its output:\n{self.output[-_TAIL_CHARACTERS:]}"


_TAIL_CHARACTERS = 8000
