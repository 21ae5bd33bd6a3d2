"""Rehearsed faults, as the job file's `drill` and `dougong drill` order them: each is announced
before it comes, and comes once in a run's life."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from dougong.control.worker_api import Control
from dougong.control.worker_messages import DrillAnnounced
from dougong.fault.self_inflicted import can_inflict, inflict
from dougong.job.drills.drill import Drill
from dougong.job.drills.vocabulary import known_fault


@dataclass(frozen=True)
class FiredDrill:
    """By what a drill is known that has been announced: it never comes again. Exactly one of
    `at_step` and `after_s`."""

    fault: str
    worker: str
    at_step: int | None = None
    after_s: float | None = None


def identity(drill: Drill) -> FiredDrill:
    """By what a drill of the job file is known once it has been announced."""
    return FiredDrill(drill.what, drill.worker, drill.at_step, drill.after_s)


def pending(drills: Iterable[Drill], fired: Collection[FiredDrill]) -> tuple[Drill, ...]:
    """The drills that have not come yet."""
    return tuple(drill for drill in drills if identity(drill) not in fired)


def is_own(drill: Drill) -> bool:
    """Whether the worker does it to itself as a step begins; anything else comes from its agent,
    and when is the controller's to see."""
    fault = known_fault(drill.what)
    return drill.at_step is not None and fault is not None and fault.target == "worker"


def own_drills(drills: Iterable[Drill], worker: str) -> tuple[Drill, ...]:
    """Those that this worker does to itself."""
    return tuple(drill for drill in drills if drill.worker == worker and is_own(drill))


def rehearse(
    drills: Iterable[Drill],
    step: int,
    control: Control,
    spoil: Callable[[str], object] = inflict,
) -> None:
    """Call when `step` begins, before any of its work: what this worker does to itself then, if
    anything. `spoil`: does what is done to the step's numbers.

    Each drill reaches the controller first (so that it never comes again); then it happens.
    """
    for drill in drills:
        if drill.at_step == step:
            # The message has left this process when `send` returns, and the agent passes it on
            # even if this process is dead by then.
            control.send(DrillAnnounced(step, drill.what))
            _act(drill.what, drill.for_s, spoil)
    ordered = control.take_fault()  # the controller has announced it itself
    if ordered is not None:
        _act(ordered.name, ordered.for_s, spoil)


def _act(name: str, for_s: float | None, spoil: Callable[[str], object]) -> None:
    if can_inflict(name):
        inflict(name, for_s)
    else:
        spoil(name)
