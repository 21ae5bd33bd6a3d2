"""A controller is a child of the command that was typed, which stays beside it, does nothing else,
and goes on with the run when the child dies.

A command's process and its controller are one to a user: signals that reach the first are passed
on, each once (the child has a process group of its own, which a terminal's Ctrl-C does not reach),
the child writes to the same terminal, and its exit status is the command's. When the parent dies,
the system kills the child.

A child that is killed, crashes, runs out of memory or leaves without having ended its lease is
dead; so is one that stands stopped (SIGSTOP) for `controller_silence_s`: by then its agents have
ended their workers, and it is killed before another follows it. One that a debugger holds is left
alone, and one whose storage stalls is not stopped. A command that is stopped itself supervises
nobody, and says so when it goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dougong.control.processes import (
    OomWatch,
    die_with_parent,
    read_nothing,
    signal_name,
    title_process,
)
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import DougongError, StorageError
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis, FailureKind
from dougong.launcher.kept.keeping import Keeping
from dougong.launcher.signals import asking, hear_passed_on, pass_on
from dougong.records.directory import RunDir
from dougong.records.finished import resume_command
from dougong.records.lease import LeaseSight, see_newest

MOST_IN_A_ROW = 3
"""So many deaths with no step between them are the end: the next one would die too."""
MOST_AN_HOUR = 20
_SIGNALLED = 128
_SHOW_CURSOR = "\x1b[?25h"


@dataclass(frozen=True)
class ControllerDeath:
    """A controller that has died. `fence`: the number of its lease; `in_vain`: why no other one
    follows it, empty where one does. `noticed_at`: by this machine's monotonic clock; since the
    fault itself it was the diagnosis' latency."""

    fence: int
    diagnosis: Diagnosis
    in_vain: str = ""
    noticed_at: float = 0.0

    @property
    def fault_at(self) -> float:
        """When it was."""
        return self.noticed_at - (self.diagnosis.latency_s or 0.0)


Attempt = Callable[[], int]
"""Runs a controller in this process; the exit status."""


@dataclass
class _WatchedProcess:
    """The present child. `stopped_s`: for how long it has stood stopped, as far as we have looked,
    and `is_given_up`: we have killed it for that; `unwatched_s`: for so long nobody had looked
    before the last look; `looked_at`: when that was, at first when it began; `oom`: what the kernel
    kills for memory."""

    pid: int
    oom: OomWatch
    looked_at: float
    is_stopped: bool = False
    stopped_s: float = 0.0
    is_given_up: bool = False
    unwatched_s: float = 0.0


class Supervisor:
    """Begins the controller of the run in `path`, and another after each that dies, where it
    `can_follow`: elsewhere nothing would end a child with us. `keeping`: by which a controller's
    agents go over to the next."""

    can_follow = sys.platform.startswith("linux")

    def __init__(self, path: Path, deadlines: Deadlines = DEADLINES) -> None:
        self._run = RunDir(path)
        self._deadlines = deadlines
        self.keeping = Keeping(deadlines) if self.can_follow else None
        self._stop: int | None = None
        self._deaths: list[tuple[float, int]] = []  # when, and how much of metrics there was

    def run(self, begin: Attempt, follow: Callable[[ControllerDeath], int]) -> int:
        """The exit status of the last controller. `begin`: the first one's work, `follow`: that of
        each that comes after a death; both run in children."""
        if self.keeping is None:
            return begin()
        attempt = begin
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*asking(), signal.SIGCHLD})
        try:
            while True:
                child = self._fork(attempt, before)
                status = self._attend(child, self.keeping)
                death = self._death_of(child, status)
                if death is None:
                    return _exit_status(status)
                attempt = _following(follow, death)
        finally:
            self.keeping.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _fork(self, attempt: Attempt, mask: set[int | signal.Signals]) -> _WatchedProcess:
        sys.stdout.flush()
        sys.stderr.flush()
        parent, begun_at = os.getpid(), time.monotonic()
        oom = OomWatch(self._deadlines.kill_s)
        pid = os.fork()
        if pid:
            return _WatchedProcess(pid, oom, begun_at)
        die_with_parent(parent)
        os.setpgid(0, 0)
        read_nothing()
        title_process(f"dougong controller of {self._run.path}")
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it writes from behind the parent
        hear_passed_on()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _live(attempt)

    def _attend(self, child: _WatchedProcess, keeping: Keeping) -> int:
        """Until the child has ended; its status as the system has it."""
        while True:
            asked = self._hear({*asking(), signal.SIGCHLD}, self._deadlines.poll_every_s)
            now = time.monotonic()
            child.looked_at, looked_s = now, now - child.looked_at
            if asked is not None:
                pass_on(child.pid, asked)
            status = _look(child)
            self._note_own_stop(child, looked_s, status)
            keeping.collect()
            if status is not None:
                return status
            child.oom.look()
            self._note_stopped(child, looked_s)

    def _hear(self, wanted: Collection[int], within_s: float) -> int | None:
        """Wait for one of these signals; what we are asked for by it, None for nothing."""
        heard = signal.sigtimedwait(wanted, within_s)
        # A process that goes on after a stop may hear of a signal of number 0.
        if heard is None or heard.si_signo not in asking():
            return None
        self._stop = heard.si_signo
        return self._stop

    def _note_own_stop(self, child: _WatchedProcess, looked_s: float, status: int | None) -> None:
        """Whoever types `fg` wants to know what has become of the run."""
        child.unwatched_s = looked_s if looked_s > self._deadlines.hang_s else 0.0
        if not child.unwatched_s:
            return
        meanwhile = "its run went on"
        if status is not None:
            meanwhile = f"its controller has ended meanwhile: {_words(child, status)[1]}"
        elif child.is_stopped:
            meanwhile = "its controller is stopped"
        _say(f"this command was stopped, or held up, for {looked_s:.0f} s; {meanwhile}")

    def _note_stopped(self, child: _WatchedProcess, looked_s: float) -> None:
        # No more than two looks at a time: where we were held up ourselves, such as with the whole
        # machine, nothing is known of the child meanwhile.
        child.stopped_s += min(looked_s, 2 * self._deadlines.poll_every_s)
        if not child.is_stopped:
            child.stopped_s = 0.0
        elif child.stopped_s > self._deadlines.controller_silence_s:
            child.is_given_up = True
            os.kill(child.pid, signal.SIGKILL)

    # How it ended

    def _death_of(self, child: _WatchedProcess, status: int) -> ControllerDeath | None:
        """None where it has come to its end, or had not begun, or was being stopped."""
        is_killed = os.WIFSIGNALED(status)
        lease = self._await_lease(status)
        holder = None if lease is None else lease.holder
        is_its = holder is not None and holder.is_here and holder.pid == child.pid
        if holder is None or not is_its or holder.ended or self._stop is not None:
            if is_killed:
                following = "" if lease is None else f"; next: dougong status {self._run.path}"
                _say(f"{_killed_words(status)}{following}")
            return None
        kind, cause, evidence = _words(child, status)
        culprit = Culprit("controller", str(holder.fence), holder.machine)
        latency_s = child.stopped_s if kind == "hang" else 0.0
        diagnosis = Diagnosis(
            culprit, kind, cause, evidence=evidence, latency_s=round(latency_s, 3)
        )
        if sys.stdout.isatty():
            print(_SHOW_CURSOR, flush=True)
        return ControllerDeath(holder.fence, diagnosis, self._why_in_vain(), time.monotonic())

    def _await_lease(self, status: int) -> LeaseSight | None:
        """The newest lease; of a run whose controller was killed as soon as its directory can be
        read again. None: there is none, or it is not so in time, or we are stopped."""
        path, until = self._run.path, time.monotonic() + self._deadlines.storage_wait_s
        is_told = False
        while True:
            seen = _look_at_lease(path, self._deadlines)
            is_over = not os.WIFSIGNALED(status) or time.monotonic() > until
            if seen or is_over or self._stop is not None:
                if is_told and not seen:
                    # Its record cannot be read: the words of the command beside it count.
                    again = resume_command(path, is_readable=False)
                    _say(f"when {path} can be read again: {again}")
                return seen[0] if seen else None
            if not is_told:
                is_told = True
                _say(
                    f"{_killed_words(status)}, and {path} cannot be read: to go on, it is waited "
                    f"for, {self._deadlines.storage_wait_s:g} s at most (Ctrl-C: not)"
                )
            self._hear(asking(), self._deadlines.storage_retry_s)

    def _why_in_vain(self) -> str:
        """Why no other controller follows; empty where one does."""
        now = time.monotonic()
        self._deaths.append((now, self._num_bytes()))
        last = self._deaths[-MOST_IN_A_ROW:]
        if len(last) == MOST_IN_A_ROW and len({size for _, size in last}) == 1:
            return f"{MOST_IN_A_ROW} controllers have died with no step between"
        in_the_hour = [at for at, _ in self._deaths if now - at < self._deadlines.deaths_s]
        if len(in_the_hour) > MOST_AN_HOUR:
            return f"{len(in_the_hour)} controllers have died within an hour"
        return ""

    def _num_bytes(self) -> int:
        """Grows with every step that is recorded."""
        try:
            return self._run.metrics_file.stat().st_size
        except OSError:
            return 0


def _look_at_lease(path: Path, deadlines: Deadlines) -> list[LeaseSight | None]:
    """The newest lease, None where the run has none; empty where the storage does not say it in
    time, or the run directory is not there."""
    found: list[LeaseSight | None] = []

    def look() -> None:
        with contextlib.suppress(StorageError, OSError):
            lease = see_newest(path)
            if lease is not None or path.is_dir():
                found.append(lease)

    looks = threading.Thread(target=look, name="look at the lease", daemon=True)
    looks.start()
    looks.join(deadlines.status_fresh_s)
    return list(found)


def _killed_words(status: int) -> str:
    return f"the controller was killed by {signal_name(os.WTERMSIG(status))}"


def _following(follow: Callable[[ControllerDeath], int], death: ControllerDeath) -> Attempt:
    def attempt() -> int:
        try:
            return follow(death)
        except DougongError as error:
            error.exit_status = error.status_of(has_begun=True)
            raise

    return attempt


def _live(attempt: Attempt) -> NoReturn:
    """The child's whole life. It never returns: what is below on the stack is the parent's."""
    status = 1
    try:
        status = attempt()
    except DougongError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        status = error.exit_status
    except KeyboardInterrupt:
        status = _SIGNALLED + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _look(child: _WatchedProcess) -> int | None:
    """Note whether it is stopped; its status when it has ended."""
    flags = os.WNOHANG | os.WUNTRACED | os.WCONTINUED
    pid, status = os.waitpid(child.pid, flags)
    if pid == 0:
        return None
    if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
        child.is_stopped = os.WIFSTOPPED(status)
        return None
    return status


def _exit_status(status: int) -> int:
    if os.WIFSIGNALED(status):
        return _SIGNALLED + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def _words(child: _WatchedProcess, status: int) -> tuple[FailureKind, str, tuple[str, ...]]:
    """Class, cause, and what was seen."""
    kind, cause, seen = _words_of_end(child, status)
    if child.unwatched_s:
        looked = (
            f"nobody had looked for {child.unwatched_s:.0f} s: the command beside it was stopped"
        )
        seen = (*seen, looked)
    return kind, cause, seen


def _words_of_end(child: _WatchedProcess, status: int) -> tuple[FailureKind, str, tuple[str, ...]]:
    if not os.WIFSIGNALED(status):
        code = os.WEXITSTATUS(status)
        return "crash", f"left with status {code} before the run's end", ()
    cause = f"signal {os.WTERMSIG(status)} ({signal_name(os.WTERMSIG(status))})"
    if child.is_given_up:
        why = f"stopped for {child.stopped_s:.0f} s, then killed by the command beside it"
        return "hang", why, (cause,)
    if os.WTERMSIG(status) == signal.SIGKILL and child.oom.may_have_killed():
        return "out_of_memory", cause, ("the kernel killed something of its control group",)
    return "crash", cause, ()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
