"""A run seen from another terminal: does it live, where does it stand, its logs, asking it to
stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dougong.control.messages import OrderDrill, Ping, StopRun
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.launcher.beside import controller_words, silence_words, what_follows
from dougong.launcher.outlived import end_waiting, has_waiting_agents
from dougong.launcher.presence import Presence, ask, is_out_of_reach, look, storage_words
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated, RunEnded
from dougong.records.finished import as_finished, resume_command
from dougong.records.lease import see_newest
from dougong.records.rebuilt_status import known_status
from dougong.records.status import RunStatus
from dougong.ui.next_step import next_step
from dougong.ui.stop_words import StopWatch, awaited_words

LOST = "LOST"


def read_status(run_dir: RunDir, deadlines: Deadlines = DEADLINES) -> RunStatus:
    """Where the run stands, by status.json or else by its other files; with state LOST when the
    controller is gone and left no final state."""
    return look_at(run_dir, deadlines)[0]


def look_at(run_dir: RunDir, deadlines: Deadlines = DEADLINES) -> tuple[RunStatus, Presence | None]:
    """As `read_status`, and what is known of the controller: None of a run that has ended."""
    status, _ = known_status(run_dir)
    if not status.has_ended:
        found = look(run_dir, deadlines)
        if found is Presence.ALIVE:
            storage = storage_words(run_dir, deadlines)
            return status.model_copy(update={"storage": storage or status.storage}), found
        if found.is_there:
            return status, found
        status, _ = known_status(run_dir)  # it may have ended between the two looks
    if not status.has_ended:
        status = status.left_by_all(_recorded_end(run_dir) or LOST)
    if status.state == "FINISHED":
        return status, None
    return as_finished(status, run_dir.read_events()), None


def _recorded_end(run_dir: RunDir) -> str | None:
    """The final state that the newest controller has recorded: on a full disk the events may have
    what status.json has no room for."""
    for event in reversed(run_dir.read_events()):
        match event:
            case RunEnded():
                return event.kind.upper()
            case RunCreated():
                return None
    return None


def ask_controller(
    run_dir: RunDir, request: Ping | StopRun | OrderDrill, deadlines: Deadlines = DEADLINES
) -> None:
    """Send the controller a request and have it acknowledged. LaunchError when nobody answers."""
    path, known = run_dir.path, run_dir.read_controller()
    if known is None:
        raise LaunchError(
            f"{path}: no controller runs here; `dougong status {path}` says how it ended"
        )
    if is_out_of_reach(known):
        machine = known.machine
        raise LaunchError(
            f"{path}: its controller listens on {machine} alone; type this command there"
        )
    ask(run_dir, known, request, deadlines)


def stop(
    run_dir: RunDir,
    now: bool,
    timeout_s: float,
    deadlines: Deadlines = DEADLINES,
    tell: Callable[[str], None] = lambda text: None,
) -> RunStatus:
    """Ask a run to stop, wait until it has, return its final status; at once when it has ended
    already. `tell` is called with what is awaited meanwhile.

    A run that is lost, and whose agents may wait for a resume, is ended by this process: they see
    it in the run directory.

    LaunchError when there is nobody to ask, with what is known of the run and what to type, and at
    the deadline: the end may come yet.
    """
    deadline = time.monotonic() + timeout_s
    found = _await_address(run_dir, deadline, deadlines)
    try:
        if not found.is_there and has_waiting_agents(run_dir):
            return end_waiting(run_dir, deadlines, tell)
        if found is not Presence.ALIVE:
            raise LaunchError(why_it_cannot_stop(run_dir, found))
        ask_controller(run_dir, StopRun(now), deadlines)
    except LaunchError:
        # It may have ended before, or between the two questions.
        ended = read_status(run_dir, deadlines)
        if not ended.has_ended:
            raise
        return ended
    watch = StopWatch(deadlines)
    while time.monotonic() < deadline:
        status, _ = known_status(run_dir)
        if status.has_ended or run_dir.read_controller() is None:
            return read_status(run_dir, deadlines)
        text = watch.note(status, time.monotonic())
        if text is not None:
            tell(text)
        time.sleep(deadlines.poll_every_s)
    awaited = awaited_words(known_status(run_dir)[0]) or "its end"
    raise LaunchError(
        f"{run_dir.path}: has not stopped within {timeout_s:.0f} s; it still waits for {awaited}: "
        "wait for it by the same command, or use `dougong stop --now`"
    )


def _await_address(run_dir: RunDir, deadline: float, deadlines: Deadlines) -> Presence:
    """What is known of the controller, once it has come so far that it can be asked."""
    while (found := look(run_dir, deadlines)) is Presence.STARTING:
        if time.monotonic() >= deadline:
            who = see_newest(run_dir.path)
            raise LaunchError(
                f"{run_dir.path}: is starting and cannot be asked yet ({who}); try again"
            )
        time.sleep(deadlines.poll_every_s)
    return found


def why_it_cannot_stop(run_dir: RunDir, found: Presence) -> str:
    """Why nobody can be asked, how far the run has come, and what to type next."""
    path, known = run_dir.path, run_dir.read_controller()
    status, _ = known_status(run_dir)
    who, resume = controller_words(known), resume_command(path)
    match found:
        case Presence.SILENT:
            follows = what_follows(known, resume)
            return f"{path}: {silence_words(known)}, so that it cannot be asked; {follows}"
        case Presence.UNKNOWN:
            return (
                f"{path}: {who} cannot be reached from here; type this command there, or, when "
                f"that process is dead: {resume} --take-over"
            )
        case _:
            following = next_step(path, "lost", run_dir.read_events())
            place = f"at step {status.step} of {status.steps}" if status.steps else "as it began"
            return (
                f"{path}: lost {place}: {who} is gone, so that there is nothing to stop\n"
                f"next: {following}"
            )


@dataclass
class LogReader:
    """Lines of a run's worker logs as they grow. `worker`, `generation`: only these; None: all, and
    the newest.

    `next_lines` yields (worker, line); a line without an end is held back until it has one or
    `last` is true.
    """

    run_dir: RunDir
    worker: str | None = None
    generation: int | None = None
    _offsets: dict[Path, int] = field(default_factory=dict)

    def next_lines(self, last: bool = False) -> Iterator[tuple[str, str]]:
        _, files = self.selection()
        for worker, path in files:
            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            end = len(data) if last else data.rfind(b"\n") + 1
            self._offsets[path] = offset + end
            for line in data[:end].decode("utf-8", "replace").splitlines():
                yield worker, line

    def selection(self) -> tuple[int, list[tuple[str, Path]]]:
        """A generation, and its logs to read, by worker: of the asked generation, else of the
        newest that the asked worker has; generation 0 and nothing where there is none yet."""
        found = []
        for (generation, worker), path in self.run_dir.log_files().items():
            if self.worker in (None, worker):
                found.append((generation, worker, path))
        wanted = self.generation
        if wanted is None:
            # Generation 0 is that of looks and probes: it is shown only where it is asked for.
            wanted = max((generation for generation, _, _ in found), default=0)
            if wanted == 0:
                return 0, []
        return wanted, [(worker, path) for number, worker, path in found if number == wanted]


def follow(
    reader: LogReader, write: Callable[[str, str], None], deadlines: Deadlines = DEADLINES
) -> None:
    """Write lines as they come until the run has ended."""
    ended = False
    while not ended:
        status = read_status(reader.run_dir, deadlines)
        ended = status.has_ended or status.state == LOST
        for worker, line in reader.next_lines(last=ended):
            write(worker, line)
        if not ended:
            time.sleep(deadlines.poll_every_s)
