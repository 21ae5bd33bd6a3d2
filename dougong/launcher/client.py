"""A run seen from another terminal: does it live, where does it stand, its logs, asking it to
stop."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dougong.control.channel import connect
from dougong.control.messages import Acknowledged, Ping, RequestRefused, StopRun
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.records.directory import RunDir
from dougong.records.status import ControllerAddress, RunStatus

LOST = "LOST"


def read_status(run_dir: RunDir, deadlines: Deadlines = DEADLINES) -> RunStatus:
    """status.json, with state LOST when the controller is gone and left no final state."""
    status = run_dir.read_status() or RunStatus()
    if status.has_ended or is_alive(run_dir, deadlines):
        return status
    settled = run_dir.read_status() or status  # it may have ended between the two looks
    if settled.has_ended:
        return settled
    dead = tuple(worker.model_copy(update={"alive": False}) for worker in settled.workers)
    return settled.model_copy(update={"state": LOST, "workers": dead})


def is_alive(run_dir: RunDir, deadlines: Deadlines = DEADLINES) -> bool:
    """Whether a controller answers. One on another machine's loopback is judged by how fresh
    status.json is."""
    known = run_dir.read_controller()
    if known is None:
        return False
    if _is_out_of_reach(known):
        return _changes(run_dir.status_file, deadlines)
    try:
        ask_controller(run_dir, Ping(), deadlines)
    except LaunchError:
        return False
    return True


def ask_controller(
    run_dir: RunDir, request: Ping | StopRun, deadlines: Deadlines = DEADLINES
) -> None:
    """Send the controller a request and have it acknowledged. LaunchError when nobody answers."""
    path, known = run_dir.path, run_dir.read_controller()
    if known is None:
        raise LaunchError(
            f"{path}: no controller runs here; `dougong status {path}` says how it ended"
        )
    if _is_out_of_reach(known):
        machine = known.machine
        raise LaunchError(
            f"{path}: its controller listens on {machine} alone; type this command there"
        )
    channel = connect((known.host, known.port), known.token, None, deadlines)
    try:
        channel.send(request)
        answer = channel.receive(deadlines.client_answer_s, "client_answer_s")
    except (OSError, EOFError) as error:
        raise LaunchError(f"{path}: the controller did not answer: {error}; try again") from error
    finally:
        channel.close()
    if isinstance(answer, RequestRefused):
        raise LaunchError(f"{path}: the controller refused: {answer.text}")
    if not isinstance(answer, Acknowledged):
        raise LaunchError(f"{path}: the controller answered {request.kind} with {answer.kind}")


def stop(
    run_dir: RunDir, now: bool, timeout_s: float, deadlines: Deadlines = DEADLINES
) -> RunStatus:
    """Ask a run to stop, wait until it has, return its final status; at once when it has ended
    already.

    LaunchError at the deadline: it may come yet.
    """
    ended = run_dir.read_status()
    if run_dir.read_controller() is None and ended is not None and ended.has_ended:
        return ended
    ask_controller(run_dir, StopRun(now), deadlines)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = run_dir.read_status()
        if (status is not None and status.has_ended) or run_dir.read_controller() is None:
            return read_status(run_dir, deadlines)
        time.sleep(deadlines.poll_every_s)
    raise LaunchError(
        f"{run_dir.path}: has not stopped within {timeout_s:.0f} s; it still ends its step, or use "
        "`dougong stop --now`"
    )


def _is_out_of_reach(known: ControllerAddress) -> bool:
    """Whether the controller listens on the loopback of another machine."""
    return known.host.startswith("127.") and known.machine != socket.gethostname()


def _changes(path: Path, deadlines: Deadlines) -> bool:
    """Whether the file changes while we look: a clock of another machine is not compared with
    ours."""
    first = _modified_ns(path)
    deadline = time.monotonic() + deadlines.status_fresh_s
    while time.monotonic() < deadline:
        time.sleep(deadlines.poll_every_s)
        now = _modified_ns(path)
        if now is not None and now != first:
            return True
    return False


def _modified_ns(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


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
