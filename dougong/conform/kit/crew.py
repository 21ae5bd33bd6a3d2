"""Runs checks in processes of their own, and outlives all of them.

A device's library may crash, or never return. Then the check that was under way is at fault, and
the others are run by new processes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dougong.accelerators.registry import get_accelerator
from dougong.conform.kit.lines import CheckBegun, CheckLine, CheckRequest, Part
from dougong.conform.record import CheckOutcome
from dougong.control.environment import child_environment, read_visible_devices
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import DeviceError

MODULE = "dougong.conform.kit.child"
_SHOWN = 300
"""Characters of what a process has said last."""


@dataclass(frozen=True)
class Examination:
    """What is to be checked: an accelerator, with so many compute threads, and a model (a family or
    a folder; empty: none)."""

    accelerator: str
    model: str = ""
    threads: int = 1
    deadlines: Deadlines = DEADLINES


Told = CheckBegun | CheckOutcome
"""A check that begins, or what became of one."""


def run_part(part: Part, trial: Examination) -> Generator[Told, None, None]:
    """Run the checks of one part; a crash or a hang is an outcome like others.

    Raises what a process says of a device that does not open, DeviceError where one cannot even say
    it. Closing it leaves no process.
    """
    over: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dougong-conform-") as folder:
        while True:
            num_before = len(over)
            crew = _start(part, trial, Path(folder), tuple(over))
            yield from _followed(crew, over)
            failed = crew.failure()
            if failed is None:
                return
            if failed.name in over or (not failed.name and len(over) == num_before):
                raise _none_can_be_made(trial, failed)
            over.append(failed.name)
            yield failed


def _none_can_be_made(trial: Examination, failed: CheckOutcome) -> DeviceError:
    tool = get_accelerator(trial.accelerator).tool
    at = f"while {failed.name} was checked, again" if failed.name else "before a check had begun"
    return DeviceError(
        f"accelerator {trial.accelerator}: {failed.words[0]}, {at}; look at the device"
        f"{f' with {tool}' if tool else ''}, or at the package that offers it, and check it again"
    )


def _followed(crew: Crew, over: list[str]) -> Iterator[Told]:
    """What a crew tells, to its end; the names of the checks that are over join `over`."""
    try:
        for told in crew.follow():
            if isinstance(told, CheckOutcome):
                over.append(told.name)
            yield told
    finally:
        crew.end()


@dataclass
class CheckProcess:
    """One process, and what is known of it. `said`: what its check came to, by name."""

    process: subprocess.Popen[bytes]
    lines: IO[bytes]
    errors: Path
    is_open: bool = False
    is_ended: bool = False
    under_way: CheckBegun | None = None
    rest: bytes = b""
    said: dict[str, CheckOutcome] = field(default_factory=dict)

    def read(self) -> list[CheckLine]:
        """What it has said since; none where it has ended."""
        data = os.read(self.lines.fileno(), 1 << 16)
        if not data:
            self.is_ended = True
            return []
        *whole, self.rest = (self.rest + data).split(b"\n")
        return [CheckLine.model_validate_json(line) for line in whole]

    def has_failed(self) -> bool:
        """Whether it has ended otherwise than by having done all."""
        if not self.is_ended:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DEADLINES.kill_s)  # its line is closed, so it is about to end
        return self.process.poll() != 0

    def last_words(self) -> str:
        """The last line of what it has written as an error."""
        text = self.errors.read_text(encoding="utf-8", errors="replace").strip()
        return text.splitlines()[-1][-_SHOWN:] if text else ""


class Crew:
    """Processes that begin each check together: one, or two that speak with each other."""

    def __init__(self, members: Sequence[CheckProcess], deadlines: Deadlines) -> None:
        self._members = list(members)
        self._deadlines = deadlines
        self._is_late = False

    def join(self, member: CheckProcess) -> None:
        self._members.append(member)

    @contextlib.contextmanager
    def whole_or_ended(self) -> Iterator[None]:
        """Who has been started does not outlive a start that fails, or is interrupted."""
        try:
            yield
        except BaseException:
            self.end()
            raise

    def follow(self) -> Iterator[Told]:
        """What is told until all have ended, one of them has failed, or a check takes too long."""
        with selectors.DefaultSelector() as selector:
            for member in self._members:
                selector.register(member.lines, selectors.EVENT_READ, member)
            while selector.get_map() and not self._has_failed():
                ready = selector.select(self._limit_s())
                self._is_late = not ready
                for member in [key.data for key, _ in ready]:
                    yield from self._heard(member)
                for member in [key.data for key, _ in ready if key.data.is_ended]:
                    selector.unregister(member.lines)

    def _has_failed(self) -> bool:
        return self._is_late or any(member.has_failed() for member in self._members)

    def _limit_s(self) -> float:
        """Seconds within which something is told."""
        are_open = all(member.is_open for member in self._members)
        limits = self._deadlines
        return limits.conform_check_s if are_open else limits.conform_start_s

    def _heard(self, member: CheckProcess) -> Iterator[Told]:
        for line in member.read():
            if line.refused is not None:
                raise line.refused.error()
            member.is_open = True
            if line.begun is not None:
                member.under_way = line.begun
                if member is self._members[0]:
                    yield line.begun
            if line.over is not None:
                member.under_way = None
                member.said[line.over.name] = line.over
                yield from self._agreed(line.over.name)

    def _agreed(self, name: str) -> Iterator[CheckOutcome]:
        """What all have come to, once the last of them has."""
        found = [member.said[name] for member in self._members if name in member.said]
        if len(found) == len(self._members):
            yield _merged(found)

    def end(self) -> None:
        """Leave no process. One that has said all it had to say ends by itself."""
        for member in self._members:
            member.has_failed()  # one that has closed its line is about to end by itself
            if member.process.poll() is None:
                member.process.kill()
            member.process.wait()
            member.lines.close()

    def failure(self) -> CheckOutcome | None:
        """What has ended it before all checks were over; None where nothing has. Its name is empty
        where no check was under way."""
        if self._is_late:
            return self._late()
        ended = [member for member in self._members if member.process.returncode]
        # Who was killed here had to be, since another one had failed.
        own = [member for member in ended if member.process.returncode != -signal.SIGKILL]
        for member in own or ended:
            return _failed(member.under_way, _end_words(member))
        return None

    def _late(self) -> CheckOutcome:
        limits = self._deadlines
        for member in self._members:
            if not member.is_open:
                return _failed(None, f"it did not open within {limits.conform_start_s:g} s")
        waiting = [member.under_way for member in self._members if member.under_way]
        words = f"it did not return within {limits.conform_check_s:g} s, and was ended"
        return _failed(waiting[0] if waiting else None, words)


def _merged(found: Sequence[CheckOutcome]) -> CheckOutcome:
    """Of several processes: unsound where one of them is."""
    bad = [outcome for outcome in found if outcome.grade == "unsound"]
    return bad[0] if bad else found[0]


def _failed(check: CheckBegun | None, words: str) -> CheckOutcome:
    known = check or CheckBegun(name="", group="", judges="")
    return CheckOutcome(
        name=known.name, group=known.group, judges=known.judges, grade="unsound", words=(words,)
    )


def _end_words(member: CheckProcess) -> str:
    status, last = member.process.returncode, member.last_words()
    if status >= 0 and not member.is_open:
        return last or f"its process ended with status {status}"
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"its process ended {how}" + (f": {last}" if last else "")


def _start(part: Part, trial: Examination, folder: Path, over: tuple[str, ...]) -> Crew:
    accelerator = get_accelerator(trial.accelerator)
    variable = accelerator.visible_devices_variable
    count = accelerator.device_count(read_visible_devices(variable) if variable else None)
    if count == 0:
        raise DeviceError(_none_words(trial.accelerator, accelerator.missing()))
    size = 2 if part == "pair" else 1
    is_shared = count is not None and count < size
    store = folder / f"store-{len(over)}-{time.monotonic_ns()}"
    environment = child_environment(accelerator.worker_environment(trial.threads))
    crew = Crew([], trial.deadlines)
    for rank in range(size):
        request = CheckRequest(
            accelerator=trial.accelerator,
            index=0 if count is None or is_shared else rank,
            part=part,
            folder=str(folder),
            model=trial.model,
            done=over,
            rank=rank,
            size=size,
            store=str(store),
            is_shared=is_shared,
        )
        with crew.whole_or_ended():
            crew.join(_member(request, environment, folder / f"errors-{rank}"))
    return crew


def _none_words(name: str, missing: str) -> str:
    why = f" ({missing})" if missing else ""
    return (
        f"accelerator {name}: this machine has no such device{why}; run this where one is, or try "
        "--accelerator cpu"
    )


def _member(request: CheckRequest, environment: dict[str, str], errors: Path) -> CheckProcess:
    reading, writing = os.pipe()
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(writing)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=[writing],
            start_new_session=True,  # Ctrl-C is for the command, which ends its processes
        )
    os.close(writing)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(request.model_dump_json().encode())
    return CheckProcess(process, os.fdopen(reading, "rb", buffering=0), errors)
