"""A directory for a new run: made, or taken over from a run that has come to nothing.

RUN/set-aside/1/   what a run without a checkpoint has left, whole; 2, 3, ... of later ones
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dougong.checkpoint.directories import SET_ASIDE, list_committed, next_folder
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError, PlaceError, RecordError, StorageError
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted
from dougong.records.files import is_empty_folder, make_run_folder
from dougong.records.finished import resume_command
from dougong.records.lease import LEASES, Lease, take_lease

_ALLOWED = (LEASES, "controller.lock", SET_ASIDE, "lost+found", ".snapshot", ".DS_Store")
"""Names that are no run's record, and nobody's files either. Earlier releases had the lock."""
_NAMED = 3


@dataclass(frozen=True)
class Claim:
    """A run directory that this process alone writes, until the `with` block ends. `earlier`: where
    the record of a run that lay there is now."""

    run_dir: RunDir
    lease: Lease
    earlier: Path | None = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lease.release()


def claim(
    path: Path,
    takes_over: bool = False,
    deadlines: Deadlines = DEADLINES,
    tell: Callable[[str], None] = lambda text: None,
) -> Claim:
    """Claim `path` for a new run: a directory that is not there yet, or is empty, or holds a run
    that has committed no checkpoint, whose record is set aside. `takes_over`, `tell`: as for
    `take_lease`.

    PlaceError when it holds anything else, or a run that has something to go on from, LaunchError
    when that is away; AliveError when its controller lives, StorageError when it cannot be written.
    """
    run = RunDir(path)
    make_run_folder(path)
    _refuse_run_with_checkpoints(run)
    _refuse_strangers(run)
    try:
        lease = take_lease(path, deadlines, takes_over, tell)
    except StorageError as error:
        raise StorageError(f"{error}, or pass another --run-dir") from error
    try:
        earlier = _set_aside(run)
        return Claim(RunDir.create(path).of_writer(lease.fence), lease, earlier)
    except BaseException:
        lease.release()
        raise


def has_committed(run: RunDir) -> bool:
    """Whether a run lies there that has something to go on from, or had: its checkpoints may be
    away for the moment. RecordError when its record cannot be read."""
    return bool(_steps_there(run) or _steps_recorded(run))


def _refuse_strangers(run: RunDir) -> None:
    """A run's files must not be scattered among others."""
    strangers = strangers_in(run)
    if not strangers:
        return
    names = ", ".join(strangers[:_NAMED])
    more = len(strangers) - _NAMED
    others = f" and {more} more" if more > 0 else ""
    raise PlaceError(
        f"{run.path}: holds files that are no run's ({names}{others}); pass a --run-dir that does "
        "not exist yet, or is empty"
    )


def strangers_in(run: RunDir) -> list[str]:
    """Names in the directory that no run has given."""
    names = sorted(path.name for path in _entries(run))
    return [name for name in names if name not in _ALLOWED and not run.owns(name)]


def _entries(run: RunDir) -> list[Path]:
    try:
        return list(run.path.iterdir())
    except OSError as error:
        raise StorageError(
            f"{run.path}: cannot be read: {error.strerror}; mend it, or pass another --run-dir"
        ) from error


def _set_aside(run: RunDir) -> Path | None:
    """Move the record of a run that has come to nothing; None where there is none."""
    entries = [path for path in _entries(run) if path.name not in _ALLOWED]
    # An empty one leads to other storage, for checkpoints or logs: moved away it would be missed.
    left = [path for path in entries if not is_empty_folder(path)]
    if not left:
        return None
    _refuse_run_with_checkpoints(run)  # once more, now that nobody else can write
    folder = next_folder(run.path / SET_ASIDE)
    try:
        folder.mkdir(parents=True)
        for path in left:
            path.rename(folder / path.name)
    except OSError as error:
        raise StorageError(
            f"{folder}: the record of an earlier run cannot be moved there: {error.strerror}; "
            "pass another --run-dir"
        ) from error
    return folder


def _refuse_run_with_checkpoints(run: RunDir) -> None:
    there = _steps_there(run)
    if there:
        raise PlaceError(
            f"{run.path}: holds a run already, with checkpoints of {_steps(there)}; go on with it "
            f"by `{resume_command(run.path)}`, or pass another --run-dir"
        )
    gone = _steps_recorded(run)
    if gone:
        raise LaunchError(
            f"{run.path}: holds a run already, which has committed checkpoints of {_steps(gone)}; "
            "none of them is there: bring them back, or begin it again by "
            f"`{resume_command(run.path)} --from-scratch`, or pass another --run-dir"
        )


def _steps(numbers: Sequence[int]) -> str:
    return f"{'step' if len(numbers) == 1 else 'steps'} {', '.join(map(str, numbers))}"


def _steps_there(run: RunDir) -> Sequence[int]:
    """Steps of the checkpoints that are there."""
    folders = [run.checkpoints, *(run.checkpoints / SET_ASIDE).glob("*")]
    there: set[int] = set()
    for folder in folders:
        there.update(place.step for place in list_committed(folder))
    return sorted(there)


def _steps_recorded(run: RunDir) -> Sequence[int]:
    """Steps of the checkpoints that there have been: their storage may be away for the moment."""
    try:
        events = run.read_events()
    except RecordError as error:
        raise RecordError(
            f"{run.path}: holds a run whose record cannot be read, so nobody knows what it has "
            f"come to: {error}; or pass another --run-dir"
        ) from error
    return sorted({event.step for event in events if isinstance(event, CheckpointCommitted)})
