"""What a run's events tell of its ends: a finished run stays finished when a later resume comes to
nothing, and workers may hold what a run has come to that has lost its controller. Pure.

Such a resume has recorded that it began, and how it ended; it has trained no step, job.yaml is as
it was, and every checkpoint lies where it lay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    CheckpointsSetAside,
    Event,
    FirstStep,
    GenerationStarted,
    RecoveryDecided,
    RunCreated,
    RunEnded,
)
from dougong.records.status import FINAL_STATES, RunStatus

_CHANGES = (FirstStep, CheckpointCommitted, CheckpointsSetAside)
"""With these a resume has gone on."""


def finish_before(events: Sequence[Event]) -> RunEnded | None:
    """The finish of a run with which every later controller has come to nothing; None for a run
    that has not finished, or that has gone on, or has had no controller since, or whose last
    checkpoint was found to be damaged."""
    finish: RunEnded | None = None
    since: list[Event] = []
    for event in reversed(events):
        if isinstance(event, RunEnded) and event.kind == "finished":
            finish = event
            break
        since.append(event)
    if finish is None or not any(isinstance(event, RunCreated) for event in since):
        return None
    if any(isinstance(event, _CHANGES) for event in since):
        return None
    rejected = {event.directory for event in since if isinstance(event, CheckpointRejected)}
    return None if _last_checkpoint(events) in rejected else finish


def newest_generation(events: Iterable[Event]) -> int | None:
    """The generation whose workers alone hold what the run has come to; None: what is in memory
    does not count, as the run has ended, or was to go back to a checkpoint. A controller that came
    to no generation has changed nothing by its end."""
    newest, fence = None, 0
    for event in events:
        match event:
            case GenerationStarted():
                newest, fence = event.generation, event.fence
            case RecoveryDecided(action="roll_back"):
                newest = None
            case RunEnded() if event.gives_up_memory or event.fence == fence:
                newest = None
    return newest


def _last_checkpoint(events: Sequence[Event]) -> str | None:
    """Name of the newest checkpoint; None where no event tells of one."""
    for event in reversed(events):
        if isinstance(event, CheckpointCommitted):
            return event.directory
    return None


def vain_resume(events: Sequence[Event]) -> str:
    """What is told of the newest resume that came to nothing; empty where there is none."""
    if finish_before(events) is None:
        return ""
    # A controller that was killed has left no end.
    newest = [event for event in events if isinstance(event, (RunEnded, RunCreated))][-1]
    cause = newest.cause if isinstance(newest, RunEnded) else None
    told = "the last resume trained no step, and the run is as it was"
    return f"{told}: {cause}" if cause else told


def as_finished(status: RunStatus, events: Sequence[Event]) -> RunStatus:
    """The status without what a resume that came to nothing has written into it."""
    ended = finish_before(events)
    if ended is None or status.state not in (*FINAL_STATES, "LOST"):
        return status
    news = {"state": "FINISHED", "generation": ended.generation, "phase": "", "unsaved": ""}
    return status.model_copy(update={**news, "step": ended.step, "steps": ended.step})
