"""What happened in a run, read from its directory and put together: for the report and the closing
words. Pure reading.

Also for a run that goes on, was stopped, failed, or whose controller was killed. Durations between
two events use the monotonic clock, which holds within one *sitting* (from a controller's start to
its end); the time between sittings is not the run's.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from dougong.control.processes import process_exists
from dougong.errors import RecordError
from dougong.fault.culprit import Culprit
from dougong.parallel.plan import Plan
from dougong.records.damage import rows_note
from dougong.records.directory import RunDir
from dougong.records.event.base import RunEvent
from dougong.records.events import (
    AgentsStarted,
    CheckpointCommitted,
    CheckpointRejected,
    CheckpointsSetAside,
    Event,
    FailureDiagnosed,
    FingerprintsTaken,
    FirstStep,
    GenerationStarted,
    RunCreated,
    RunEnded,
    StartedAgent,
    StateChanged,
    StepSkipped,
    StepsRecomputed,
    WorkerDied,
)
from dougong.records.finished import as_finished, vain_resume
from dougong.records.machine import Machine
from dougong.records.metrics import REPORTED, MetricsRow, split_rows
from dougong.records.rebuilt_status import last_step, rebuild_status
from dougong.records.status import Goodput, RunStatus, WorkerState
from dougong.records.unsaved import unsaved_words
from dougong.ui.formatting import count, duration, loss, plural, stretches_words
from dougong.ui.goodput.course import Course
from dougong.ui.goodput.meter import course_of
from dougong.ui.health import percent
from dougong.ui.next_step import next_step, typed
from dougong.ui.recoveries import Recovery, find_recoveries, num_failures
from dougong.ui.sentences import failure_words

_END_STATES = ("finished", "stopped", "failed")

_OneEvent = TypeVar("_OneEvent", bound=RunEvent)


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint that was committed. `present`: its directory is still there. `rejected`: why
    a later load refused it. `aside`: the folder where it lies since the run went on from an earlier
    one."""

    step: int
    name: str
    num_bytes: int
    seconds: float
    wall: str
    present: bool
    rejected: str = ""
    aside: str = ""


@dataclass(frozen=True)
class RunFailure:
    """What ended a failed run. `culprit`, None where the cause was none in it, had failed first in
    `generation`."""

    cause: str = ""
    culprit: Culprit | None = None
    generation: int = 0

    @property
    def place(self) -> str:
        """The culprit, and its node where that is named; empty where there is none."""
        return "" if self.culprit is None else str(self.culprit)

    @property
    def worker(self) -> str:
        """The culprit, where that is a worker; else empty."""
        return "" if self.culprit is None else self.culprit.worker


@dataclass(frozen=True)
class History:
    """All of a run. `rows` are the present history; `rewound` are the stretches that later
    generations went over again.

    `state`: in small letters, `lost` when the controller is gone without a word. `last_step`: the
    last one that counts, 0 before the first. `course`: where the run's time went, stretch
    by stretch; `moments`: the run's time at each event. `note`: which damaged rows were left
    out.
    """

    path: Path
    job_text: str
    state: str
    failure: RunFailure | None
    steps: int
    rows: list[MetricsRow]
    rewound: list[list[MetricsRow]]
    recoveries: list[Recovery]
    checkpoints: list[CheckpointRecord]
    events: list[Event]
    plan: Plan | None
    workers: Sequence[WorkerState]
    last_step: int
    goodput: Goodput = field(default_factory=Goodput)
    course: Course = field(default_factory=Course)
    moments: Sequence[float] = ()
    note: str = ""

    @property
    def command(self) -> str:
        """What was typed: one line for each controller that the run had."""
        created = [event for event in self.events if isinstance(event, RunCreated)]
        return "\n".join(typed(event.command) for event in created if event.command)

    @property
    def job_name(self) -> str:
        """As its last controller has it; before the first, that of its directory."""
        created = _last(self.events, RunCreated)
        return "" if created is None else created.job or self.path.name

    @property
    def machine(self) -> Machine:
        """The newest controller's; nothing is known of it before the first."""
        created = _last(self.events, RunCreated)
        return Machine() if created is None else created.machine

    @property
    def agents(self) -> Sequence[StartedAgent]:
        """Those that were started last."""
        started = _last(self.events, AgentsStarted)
        return () if started is None else started.agents

    @property
    def classes(self) -> dict[str, str]:
        """Worker -> class of its device's arithmetic, as last found."""
        taken = _last(self.events, FingerprintsTaken)
        return {} if taken is None else taken.classes

    @property
    def num_skipped(self) -> int:
        """Steps that were left out, since their numbers were not finite; each counts once."""
        return len({event.step for event in self.events if isinstance(event, StepSkipped)})

    @property
    def tokens(self) -> int:
        """Tokens of the present history's steps."""
        return sum(row["tokens"] for row in self.rows)

    @property
    def recomputed(self) -> list[StepsRecomputed]:
        """What was computed a second time, and compared."""
        return [event for event in self.events if isinstance(event, StepsRecomputed)]

    @property
    def generation(self) -> int:
        """The newest generation."""
        return max((event.generation for event in self.events), default=0)

    @property
    def validation(self) -> tuple[int, float] | None:
        """The last validation: step and loss."""
        for row in reversed(self.rows):
            if row.get("val_loss") is not None:
                return row["step"], row["val_loss"]
        return None

    @property
    def validation_by_source(self) -> Mapping[str, float]:
        """Its loss on each source of a mixture, by place; empty where there is one."""
        for row in reversed(self.rows):
            if row.get("val_loss") is not None:
                found: Mapping[str, float] = row.get("val_by_source", {})
                return found
        return {}


def read_history(run_dir: RunDir) -> History:
    """Read all of a run. RecordError when a file of it is broken; a row of metrics.jsonl that is
    damaged is left out."""
    faults: list[RecordError] = []
    events, rows = run_dir.read_events(), run_dir.read_metrics(REPORTED, faults.append)
    status = _read_status(run_dir, events)
    state = status.state.lower()
    last = last_step(events, rows)
    live, rewound = _counted(rows, last)
    goodput, course, moments = course_of(events, rows)
    return History(
        path=run_dir.path,
        job_text=run_dir.read_job(),
        state=state,
        failure=_failure(events) if state == "failed" else None,
        steps=status.steps,
        rows=live,
        rewound=rewound,
        recoveries=find_recoveries(events, rows, is_lost=state == "lost"),
        checkpoints=find_checkpoints(events, run_dir.checkpoints),
        events=events,
        plan=run_dir.read_plan(),
        workers=status.workers,
        last_step=last,
        goodput=goodput,
        course=course,
        moments=moments,
        note=rows_note(faults),
    )


def _counted(
    rows: Sequence[MetricsRow], last: int
) -> tuple[list[MetricsRow], list[list[MetricsRow]]]:
    """As `split_rows`; what lies beyond the last step is lost too, where nobody has computed it
    again yet."""
    live, rewound = split_rows(rows)
    beyond = [row for row in live if row["step"] > last]
    kept = live[: len(live) - len(beyond)]
    return kept, [*rewound, beyond] if beyond else rewound


def find_checkpoints(events: Sequence[Event], directory: Path) -> list[CheckpointRecord]:
    """All that were ever committed, by time; a rejected one carries its reason, a pruned one is not
    `present`."""
    found: list[CheckpointRecord] = []
    for event in events:
        match event:
            case CheckpointCommitted():
                found.append(_record_of(event, (directory / event.directory).is_dir()))
            case CheckpointRejected(directory=name, reason=reason):
                lies = {"present": False, "aside": event.aside} if event.aside else {}
                found = [_changed(record, (name,), rejected=reason, **lies) for record in found]
            case CheckpointsSetAside(names=names, folder=folder):
                found = [_changed(r, names, present=False, aside=folder) for r in found]
    return found


def _changed(record: CheckpointRecord, names: Sequence[str], **news: Any) -> CheckpointRecord:
    """The record with its news, if it is one of these. A name that was set aside is another's
    now."""
    is_meant = record.name in names and not record.aside
    return replace(record, **news) if is_meant else record


def _record_of(event: CheckpointCommitted, present: bool) -> CheckpointRecord:
    return CheckpointRecord(
        event.step, event.directory, event.num_bytes, event.seconds, event.wall, present
    )


def closing_words(run_dir: RunDir, state: str | None = None, says_next: bool = True) -> str:
    """For the end of a run on the screen: what came of it, which rows were damaged, and in the last
    line what to type next.
    `state`: as the controller knows it, whose record may lack the end; None: as the record says."""
    history = read_history(run_dir)
    refused = vain_resume(history.events) if history.state == "finished" else ""
    if state is not None and not refused:
        history = replace(history, state=state)
    told = ["as before: the resume trained no step"] if refused else []
    words = ", ".join([*_numbers(history), *told])
    if history.note:
        words = f"{words}\nnote: {history.note}"
    if not says_next:
        return words
    following = next_step(history.path, history.state, history.events)
    return f"{words}\nnext: {following}"


def _numbers(history: History) -> list[str]:
    """What came of the run, piece by piece."""
    rows, failures = history.rows, num_failures(history.recoveries)
    parts = [
        f"{history.job_name}: {history.state} at step {history.last_step}/{history.steps}",
        f"{count(history.tokens)} tokens",
        _time_words(history),
        f"loss {loss(rows[-1]['loss'])}" if rows else "",
        plural(failures, "failure") if failures else "",
        f"{plural(history.num_skipped, 'step')} skipped" if history.num_skipped else "",
        recomputed_words(history.recomputed) if history.recomputed else "",
        unsaved_words(history.events),
    ]
    return [part for part in parts if part]


def _time_words(history: History) -> str:
    """How long, and how much of it in steps that count, as everywhere: of that, too, in which
    nobody led the run."""
    goodput = history.goodput
    share = goodput.share if history.rows else None
    if share is None:
        return duration(goodput.wall_s)
    return f"{duration(goodput.wall_s)} (goodput {percent(share)})"


def recomputed_words(events: Sequence[StepsRecomputed]) -> str:
    """What came of the steps that were computed again: the bits of the first time, or where not."""
    parted = [event for event in events if event.differs_from is not None]
    if parted:
        return f"step {parted[0].last} computed again: other bits"
    stretches = stretches_words((event.first, event.last) for event in events)
    return f"{stretches} computed again: the same bits"


def _read_status(run_dir: RunDir, events: Sequence[Event]) -> RunStatus:
    """The status, with the state that the events say."""
    status = run_dir.read_status() or rebuild_status(run_dir)
    state = _state(events, status).upper()
    return as_finished(status.model_copy(update={"state": state}), events)


def _state(events: Sequence[Event], status: RunStatus) -> str:
    state = _recorded_state(events) or status.state.lower()
    if state not in _END_STATES and _controller_is_gone(status):
        return "lost"
    return state


def _recorded_state(events: Sequence[Event]) -> str:
    """As the newest event that changes it says; empty when none does."""
    for event in reversed(events):
        match event:
            case RunEnded():
                return event.kind
            case StateChanged():
                return event.state.lower()
            case GenerationStarted():
                return "running"
            case RunCreated():
                return "starting"
    return ""


def _controller_is_gone(status: RunStatus) -> bool:
    """Only what this machine can know: the controller ran here and its process is no more."""
    controller = status.controller
    if controller is None or controller.host != socket.gethostname():
        return False
    return not process_exists(controller.pid)


def _failure(events: Sequence[Event]) -> RunFailure | None:
    ended = _last(events, RunEnded)
    if ended is None:
        return None
    cause = failure_words(ended.failure, ended.cause)
    generation = _generation_of(ended, events)
    return RunFailure(cause, ended.who, generation)


def _generation_of(ended: RunEnded, events: Sequence[Event]) -> int:
    """In which generation the worker had died that ended the run: of equal deaths, the first since
    the last generation that trained, or since the last controller's start."""
    generation: int | None = None
    for event in reversed(events):
        if isinstance(event, RunCreated):
            break
        if isinstance(event, FirstStep) and generation is not None:
            break
        if isinstance(event, WorkerDied | FailureDiagnosed) and _is_end_of(event, ended):
            generation = event.generation
    return ended.generation if generation is None else generation


def _is_end_of(failed: WorkerDied | FailureDiagnosed, ended: RunEnded) -> bool:
    return (failed.who, failed.cause) == (ended.who, ended.cause)


def _last(events: Sequence[Event], kind: type[_OneEvent]) -> _OneEvent | None:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)
