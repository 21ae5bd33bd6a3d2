"""Where a run stands when status.json is gone or damaged: by its events, its rows and its job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dougong.errors import RecordError
from dougong.job.yaml import locations
from dougong.records.directory import RunDir
from dougong.records.events import (
    Event,
    GenerationStarted,
    RunCreated,
    RunEnded,
    StateChanged,
    StateRestored,
)
from dougong.records.finished import finish_before
from dougong.records.lease import newest_fence
from dougong.records.metrics import MetricsRow
from dougong.records.status import STATES, RunStatus
from dougong.records.unsaved import unsaved_words


def known_status(run_dir: RunDir) -> tuple[RunStatus, str]:
    """status.json, or what else the run's record tells, with a sentence that says so; that is empty
    for a status as it was written, and for a run that has recorded nothing yet. RecordError where
    the events are damaged too."""
    try:
        status, why = run_dir.read_status(), f"{run_dir.status_file} is gone"
    except RecordError as error:
        status, why = None, str(error)
    if status is not None and not _is_followed(run_dir, status):
        return status, ""
    if status is not None:
        return rebuild_status(run_dir), ""
    rebuilt = rebuild_status(run_dir)
    if rebuilt == RunStatus():
        return rebuilt, ""
    return rebuilt, f"{why}; what is told here is what the run's other files say"


def _is_followed(run_dir: RunDir, status: RunStatus) -> bool:
    """Whether a later controller than that which wrote the status has recorded something: the
    status is an older word, or one of a controller that has not noticed yet."""
    if not 0 < status.fence < newest_fence(run_dir.path):
        return False
    return any(event.fence > status.fence for event in run_dir.read_events())


def rebuild_status(run_dir: RunDir) -> RunStatus:
    """As status.json would say it, but for the workers and what faults have cost; empty where
    nothing has been recorded. A damaged row is left out: whoever shows the rows tells it."""
    events = run_dir.read_events()
    if not events:
        return RunStatus()
    job = _job(run_dir)
    steps = job.get("steps")
    rows = run_dir.read_last_metrics(lambda _: None)
    return RunStatus(
        job=_name(events) or str(job.get("job", "")),
        state=_state(events),
        generation=max(event.generation for event in events),
        step=last_step(events, rows),
        steps=steps if type(steps) is int else 0,
        unsaved=unsaved_words(events),
    )


def _name(events: Sequence[Event]) -> str:
    return next((event.job for event in events if isinstance(event, RunCreated)), "")


def _job(run_dir: RunDir) -> dict[str, Any]:
    """job.yaml as it is written; empty where it is gone or damaged too."""
    try:
        found = locations.read(run_dir.read_job()).data
    except RecordError:
        return {}
    return found if isinstance(found, dict) else {}


def _state(events: Sequence[Event]) -> str:
    """As the newest event that changes it says."""
    for event in reversed(events):
        match event:
            case RunEnded():
                return event.kind.upper()
            case StateChanged(state=state) if state.upper() in STATES:
                return state.upper()
            case GenerationStarted():
                return "RUNNING"
            case RunCreated():
                break
    return "STARTING"


def last_step(events: Sequence[Event], rows: Sequence[MetricsRow]) -> int:
    """The last step that counts: that of an end its own, else that of the last row, where no
    generation has begun since at an earlier one. `rows`: the last ones, in order."""
    finish = finish_before(events)
    if finish is not None:
        return finish.step
    for event in reversed(events):
        if isinstance(event, RunEnded):
            return event.step
        if isinstance(event, GenerationStarted | StateRestored):
            own = [row["step"] for row in rows if row.get("generation") == event.generation]
            return int(own[-1]) if own else event.step
    return int(rows[-1]["step"]) if rows else 0
