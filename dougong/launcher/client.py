"""A run seen from another terminal: does it live, where does it stand, its logs, asking it to
stop."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dougong.control.channel import Channel, connect
from dougong.errors import LaunchError
from dougong.records.directory import RunDir
from dougong.records.status import RunStatus

LOST = "LOST"
CALL_S = 5.0
FRESH_S = 2.5
_POLL_S = 0.2


def read_status(run_dir: RunDir) -> RunStatus:
    """status.json, with state LOST when the controller is gone and left no final state."""
    status = run_dir.read_status() or RunStatus()
    if status.has_ended or is_alive(run_dir):
        return status
    settled = run_dir.read_status() or status  # it may have ended between the two looks
    if settled.has_ended:
        return settled
    dead = tuple(worker.model_copy(update={"alive": False}) for worker in settled.workers)
    return settled.model_copy(update={"state": LOST, "workers": dead})


def is_alive(run_dir: RunDir) -> bool:
    """Whether a controller answers. One on another machine's loopback is judged by how fresh
    status.json is."""
    known = run_dir.read_controller()
    if known is None:
        return False
    if known["host"].startswith("127.") and known["machine"] != socket.gethostname():
        return _is_fresh(run_dir.status_file)
    try:
        with_controller(run_dir, "hail")
    except LaunchError:
        return False
    return True


def with_controller(run_dir: RunDir, kind: str, **fields: Any) -> None:
    """Tell the controller something and have it acknowledged. LaunchError when nobody answers."""
    known = run_dir.read_controller()
    if known is None:
        raise LaunchError(
            f"{run_dir.path}: no controller runs here; `dougong status {run_dir.path}` says how it ended"
        )
    if known["host"].startswith("127.") and known["machine"] != socket.gethostname():
        raise LaunchError(
            f"{run_dir.path}: its controller listens on {known['machine']} alone; type this command there"
        )
    channel = connect((known["host"], known["port"]), known["token"], {"role": "client"}, CALL_S)
    try:
        _acknowledged(channel, kind, fields)
    except (OSError, EOFError) as error:
        raise LaunchError(
            f"{run_dir.path}: the controller did not answer: {error}; try again"
        ) from error
    finally:
        channel.close()


def _acknowledged(channel: Channel, kind: str, fields: dict[str, Any]) -> None:
    channel.send(kind, **fields)
    answer = channel.receive(CALL_S)
    if answer["kind"] != "ok":
        raise LaunchError(f"the controller refused: {answer.get('text', answer['kind'])}")


def stop(run_dir: RunDir, now: bool, timeout_s: float) -> RunStatus:
    """Ask a run to stop, wait until it has, return its final status; at once when it has ended
    already.

    LaunchError at the deadline: it may come yet.
    """
    ended = run_dir.read_status()
    if run_dir.read_controller() is None and ended is not None and ended.has_ended:
        return ended
    with_controller(run_dir, "stop", now=now)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = run_dir.read_status()
        if (status is not None and status.has_ended) or run_dir.read_controller() is None:
            return read_status(run_dir)
        time.sleep(_POLL_S)
    raise LaunchError(
        f"{run_dir.path}: has not stopped within {timeout_s:.0f} s; it still ends its step, or use `dougong stop --now`"
    )


def _is_fresh(path: Path) -> bool:
    """Whether the file changes while we look: a clock of another machine is not compared with
    ours."""
    first = path.stat().st_mtime_ns if path.exists() else None
    deadline = time.monotonic() + FRESH_S
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if path.exists() and path.stat().st_mtime_ns != first:
            return True
    return False


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
        for worker, path in self._files():
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
            whole = len(data) if last else data.rfind(b"\n") + 1
            self._offsets[path] = self._offsets.get(path, 0) + whole
            for line in data[:whole].decode("utf-8", "replace").splitlines():
                yield worker, line

    def _files(self) -> list[tuple[str, Path]]:
        """Logs to read: of the asked generation, else of the newest that the asked worker has."""
        logs = {
            key: path
            for key, path in self.run_dir.log_files().items()
            if self.worker in (None, key[1])
        }
        if self.generation is None:
            logs = {key: path for key, path in logs.items() if key[0] > 0}
        wanted = (
            self.generation if self.generation is not None else max((g for g, _ in logs), default=0)
        )
        return [
            (worker, path) for (generation, worker), path in logs.items() if generation == wanted
        ]


def follow(reader: LogReader, write: Callable[[str, str], None]) -> None:
    """Write lines as they come until the run has ended."""
    ended = False
    while not ended:
        status = read_status(reader.run_dir)
        ended = status.has_ended or status.state == LOST
        for worker, line in reader.next_lines(last=ended):
            write(worker, line)
        if not ended:
            time.sleep(_POLL_S)
