"""What `dougong stop` says while it waits, and at the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.deadlines import DEADLINES, Deadlines
from dougong.records.events import Event, RunCreated, RunEnded, StepGivenUp
from dougong.records.status import RunStatus, WorkerState
from dougong.ui.formatting import duration, worker_list
from dougong.ui.sentences import describe


class StopWatch:
    """Follows a run that is to stop: what is awaited is said at once, then every `phase_told_s`,
    with how long that has been so."""

    def __init__(self, deadlines: Deadlines = DEADLINES) -> None:
        self._deadlines = deadlines
        self._awaited: str | None = None
        self._since = 0.0
        self._told_at: float | None = None

    def note(self, status: RunStatus, now: float) -> str | None:
        """What is to be said now, if anything. `now`: monotonic seconds."""
        awaited = awaited_words(status)
        if awaited != self._awaited:
            self._awaited, self._since = awaited, now
        is_due = self._told_at is None or now - self._told_at >= self._deadlines.phase_told_s
        if awaited is None or not is_due:
            return None
        self._told_at = now
        is_new = now == self._since
        return f"waits for {awaited}" + ("" if is_new else f", {duration(now - self._since)}")


def awaited_words(status: RunStatus) -> str | None:
    """What the end of a run waits for, by what it has written of itself; None after the end."""
    if status.has_ended:
        return None
    if status.state == "STARTING" or (status.state == "RECOVERING" and status.phase):
        return "the run to be ended as it starts"
    if status.waiting and status.state in ("RUNNING", "STOPPING"):
        return status.waiting
    living = [worker for worker in status.workers if worker.alive]
    if not living:
        return "the last checkpoint to be committed"
    if status.state == "RECOVERING":
        return "the workers of a failed generation to end"
    step = max(worker.step for worker in living) or status.step + 1
    places = _places(living)
    return f"step {step} to end" + (f": {places}" if places else "")


def _places(workers: Sequence[WorkerState]) -> str:
    """What they are at; with their names where that is not the same for all."""
    by_phase: dict[str, list[str]] = {}
    for worker in workers:
        by_phase.setdefault(worker.phase, []).append(worker.name)
    if len(by_phase) == 1:
        return next(iter(by_phase))
    return ", ".join(f"{worker_list(names)} in {phase}" for phase, names in by_phase.items())


def how_it_stopped(status: RunStatus, events: Sequence[Event]) -> str:
    """The run's end in words, a line or two: what the newest controller has written of it."""
    lines = [f"{status.state.lower()} at step {status.step} of {status.steps}"]
    for event in reversed(events):
        match event:
            case StepGivenUp():
                lines.append(describe(event).text)
            case RunEnded(kind="failed"):
                lines.append(describe(event).text)
            case RunCreated():
                break
    return "\n".join(lines)
