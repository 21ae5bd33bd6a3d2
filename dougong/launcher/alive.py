"""A run has one controller: nobody begins or goes on with one whose controller lives, or may."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import AliveError, RecordError, StorageError
from dougong.launcher.beside import silence_words, what_follows
from dougong.launcher.presence import Presence, look
from dougong.records.directory import RunDir
from dougong.records.lease import Lease, take_lease


def refuse_if_alive(run_dir: RunDir, deadlines: Deadlines = DEADLINES) -> Presence:
    """What is known of the run's controller. AliveError when it answers: its lease may look old
    where storage stalls, and two at once would spoil the run."""
    found = look(run_dir, deadlines)
    if found is Presence.ALIVE:
        known = run_dir.read_controller()
        who = "" if known is None else f" (controller process {known.pid} on {known.machine})"
        path = run_dir.path
        raise AliveError(f"{path}: this run is alive{who}; `dougong stop {path}` ends it")
    return found


def become_controller(
    run_dir: RunDir,
    takes_over: bool = False,
    deadlines: Deadlines = DEADLINES,
    tell: Callable[[str], None] = lambda text: None,
) -> Lease:
    """Take the lease of a run that is there. `takes_over`, `tell`: as for `take_lease`, which
    raises what this raises."""
    found = refuse_if_alive(run_dir, deadlines)
    known = run_dir.read_controller()
    try:
        return take_lease(run_dir.path, deadlines, takes_over, tell, _highest_fence(run_dir))
    except AliveError as error:
        if found is not Presence.SILENT or known is None:
            raise
        follows = what_follows(known, "this command again")
        raise AliveError(
            f"{run_dir.path}: this run is alive: {silence_words(known)}; {follows}"
        ) from error


def _highest_fence(run_dir: RunDir) -> int:
    """The highest number of a controller in the run's record; 0: none, or it cannot be read, which
    whoever needs it says."""
    with contextlib.suppress(RecordError, StorageError):
        return max((event.fence for event in run_dir.read_events()), default=0)
    return 0
