"""Rehearsed faults: a worker kills itself when a step begins, as the job file's `drill` says. Once
in a run's life."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from typing import Protocol

from dougong.control.worker_messages import DrillAnnounced
from dougong.job.schema import Drill


class Teller(Protocol):
    """The part of a worker's control that a drill needs."""

    def send(self, message: DrillAnnounced) -> None: ...


class Rehearsing(Protocol):
    """The part of a worker's context that a drill needs."""

    @property
    def drills(self) -> Sequence[Drill]: ...
    @property
    def control(self) -> Teller: ...


def rehearse(context: Rehearsing, step: int) -> None:
    """Call when `step` begins, before any of its work: fires this worker's drill of that step, if
    there is one.

    The controller is told first (so that the drill never fires again); then this process dies by
    SIGKILL.
    """
    for drill in context.drills:
        if drill.at_step == step:
            context.control.send(DrillAnnounced(step, "kill"))
            os.kill(os.getpid(), signal.SIGKILL)


def pending(drills: Iterable[Drill], fired: Iterable[tuple[int, str]]) -> tuple[Drill, ...]:
    """The drills that have not fired yet; `fired` holds (step, worker)."""
    gone = set(fired)
    return tuple(drill for drill in drills if (drill.at_step, drill.kill) not in gone)
