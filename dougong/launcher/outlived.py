"""A run over a cluster whose controller and command are gone: its agents wait for a resume, with
their workers and devices, for `fault.deadlines.resume_s`. Here it is ended instead.
"""

from __future__ import annotations

from collections.abc import Callable

from dougong.checkpoint.directories import list_committed
from dougong.deadlines import DEADLINES, Deadlines
from dougong.launcher.alive import become_controller
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated, RunEnded
from dougong.records.finished import newest_generation
from dougong.records.rebuilt_status import known_status
from dougong.records.status import RunStatus
from dougong.ui.sentences import describe


def has_waiting_agents(run_dir: RunDir) -> bool:
    """Whether a run that has no controller may have: it was over a cluster, and has not ended."""
    events = run_dir.read_events()
    if newest_generation(events) is None:
        return False
    begun = [event for event in events if isinstance(event, RunCreated)]
    return bool(begun and begun[-1].address)


def end_waiting(
    run_dir: RunDir,
    deadlines: Deadlines = DEADLINES,
    tell: Callable[[str], None] = lambda text: None,
) -> RunStatus:
    """Write down that the run is stopped, which its agents see within seconds, and end. What they
    hold is given up, but for the newest checkpoint. `tell` and errors: `become_controller`."""
    with become_controller(run_dir, deadlines=deadlines, tell=tell) as lease:
        written = run_dir.of_writer(lease.fence)
        status, _ = known_status(run_dir)
        saved = max((place.step for place in list_committed(run_dir.checkpoints)), default=0)
        ended = RunEnded(
            kind="stopped",
            generation=status.generation,
            step=status.step,
            saved=saved,
            gives_up_memory=True,
            failure=None,
        )
        written.append_event(ended)
        status = status.left_by_all("STOPPED")
        written.write_status(status)
    tell(
        f"{run_dir.path}: its controller is gone; the agents that waited for a resume end within "
        f"seconds: {describe(ended).text}"
    )
    return status
