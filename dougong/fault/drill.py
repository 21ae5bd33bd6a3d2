"""Rehearsed faults: a worker kills itself when a step begins, as the job file's `drill` says. Once
in a run's life."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from dougong.control.worker_messages import DrillAnnounced
from dougong.job.schema import Drill


def rehearse(
    drills: Iterable[Drill], step: int, announce: Callable[[DrillAnnounced], object]
) -> None:
    """Call when `step` begins, before any of its work: fires this worker's drill of that step, if
    there is one.

    `announce` reaches the controller first (so that the drill never fires again); then this process
    dies by SIGKILL.
    """
    for drill in drills:
        if drill.at_step == step:
            # The message has left this process when `announce` returns, and the agent passes it on
            # even if this process is dead by then.
            announce(DrillAnnounced(step, "kill"))
            os.kill(os.getpid(), signal.SIGKILL)


def pending(drills: Iterable[Drill], fired: Iterable[tuple[int, str]]) -> tuple[Drill, ...]:
    """The drills that have not fired yet; `fired` holds (step, worker)."""
    gone = set(fired)
    return tuple(drill for drill in drills if (drill.at_step, drill.kill) not in gone)
