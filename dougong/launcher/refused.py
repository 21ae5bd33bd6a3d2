"""A resume that is refused leaves the run's directory as it was, but for its number in `lease/`,
by which controllers are counted.

A controller needs the directory before it knows whether it may go on: agents write their logs, and
other terminals see how far it has come. What it writes until then is taken back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dougong.errors import DougongError
from dougong.launcher.controller.states import Outcome
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointRejected,
    CheckpointsSetAside,
    DeviceQuarantined,
)
from dougong.records.files import replace_file
from dougong.ui.history import closing_words

_OTHERS = ("lease", "checkpoints", "ledger", "set-aside")
"""What a controller counts by, and what it does not write before it goes on."""
_NEWS = (CheckpointsSetAside, CheckpointRejected, DeviceQuarantined)
"""With these something else of the run has changed, or was found out, that must be known."""


@dataclass(frozen=True)
class KeptFile:
    """A file as it was. `data`: of one that is replaced as a whole; None: it grows, from `size`
    bytes on."""

    size: int
    data: bytes | None = None


class RunBefore:
    """What a run's directory holds before a resume writes there."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._files = {path: _kept(run_dir, path) for path in _files_in(run_dir)}
        self._folders = set(_folders_in(run_dir))

    def put_back(self, keep_logs: bool = False) -> None:
        """Take back what was written since; `keep_logs`: but for logs, which somebody is to read.
        OSError where the storage does not let us."""
        for path in _files_in(self._run_dir):
            if not (keep_logs and self._run_dir.logs in path.parents):
                self._put_back(path, self._files.get(path))
        for folder in sorted(
            _folders_in(self._run_dir), reverse=True
        ):  # what is inside comes first
            if folder not in self._folders:
                with contextlib.suppress(OSError):  # logs that were kept
                    folder.rmdir()

    def _put_back(self, path: Path, before: KeptFile | None) -> None:
        if before is None:
            path.unlink()
        elif before.data is None:
            if path.stat().st_size > before.size:
                os.truncate(path, before.size)
        elif path.read_bytes() != before.data:
            replace_file(path, before.data.decode(), path.stat().st_mode & 0o777)


def take_back(before: RunBefore, outcome: Outcome, run_dir: RunDir) -> bool:
    """Leave the directory of a refused resume as it was; whether it is so. `run_dir`: of the
    controller that was refused, whose record is written."""
    own = [event for event in run_dir.read_events() if event.fence == run_dir.fence]
    if any(isinstance(event, _NEWS) for event in own):
        return False
    try:
        before.put_back(keep_logs=str(run_dir.logs) in str(outcome.error))
    except OSError:  # the storage has failed meanwhile: the record says that it was refused
        return False
    return True


def as_before_words(run_dir: RunDir) -> str:
    """The last words of such a resume on the screen."""
    with contextlib.suppress(DougongError):
        return f"refused, and the run is as it was: {closing_words(run_dir, says_next=False)}"
    return f"refused, and the run is as it was: {run_dir.path}"


def _kept(run_dir: RunDir, path: Path) -> KeptFile:
    """What lies below folders (logs, curves) grows, or is written once; so do lists of lines."""
    if path.parent != run_dir.path or path.suffix == ".jsonl":
        return KeptFile(path.stat().st_size)
    data = path.read_bytes()
    return KeptFile(len(data), data)


def _entries(run_dir: RunDir) -> Iterator[tuple[Path, list[str], list[str]]]:
    for name in os.listdir(run_dir.path):
        place = run_dir.path / name
        if run_dir.owns(name) and name not in _OTHERS and place.is_dir():
            for folder, inner, files in os.walk(place):
                yield Path(folder), inner, files


def _files_in(run_dir: RunDir) -> Iterator[Path]:
    """All files that a controller writes, apart from `_OTHERS`."""
    for name in os.listdir(run_dir.path):
        if run_dir.owns(name) and (run_dir.path / name).is_file():
            yield run_dir.path / name
    for folder, _, files in _entries(run_dir):
        yield from (folder / name for name in files)


def _folders_in(run_dir: RunDir) -> Iterator[Path]:
    for folder, _, _ in _entries(run_dir):
        yield folder
