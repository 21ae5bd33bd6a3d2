"""What a controller takes over from those that the run had before it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from dougong.checkpoint.directories import list_committed, refuse_no_folder, step_of
from dougong.checkpoint.proof.signing import SigningKey
from dougong.checkpoint.repository import VerifyResult, newest_valid, none_is_valid, steps_in
from dougong.errors import JobError, RecordError, SourceError
from dougong.fault.diagnosis import Diagnosis, FailureKind
from dougong.fault.drill import FiredDrill
from dougong.fault.policy import PastFailure
from dougong.job.schema import Job
from dougong.launcher.controller.config import FROM_START, GENERATIONS, ResumePoint
from dougong.launcher.controller.drills import fired_by
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointsSetAside,
    DeviceQuarantined,
    DrillFired,
    Event,
    FailureDiagnosed,
    FirstStep,
    RecoveryDecided,
    RunCreated,
    StepSkipped,
)
from dougong.records.finished import newest_generation, resume_command
from dougong.records.lease import are_past

_LEFT = 100
"""A controller that has fewer numbers left in its thousand begins the next one."""


def take_over(run_dir: RunDir, chosen: int | None = None) -> ResumePoint:
    """What the run's record and its checkpoints say of its earlier life. `chosen`: as in
    `ResumePoint`; SourceError where there is no checkpoint of that step, or a file in the place of
    all."""
    refuse_no_folder(run_dir.checkpoints)
    committed: set[int] = set()
    fired: set[FiredDrill] = set()
    events = run_dir.read_events()
    for event in events:
        match event:
            case DrillFired():
                fired.update(fired_by(event))
            case CheckpointCommitted():
                committed.add(event.step)
            case CheckpointsSetAside():
                committed = {step for step in committed if step <= event.step}
    there = [place.step for place in list_committed(run_dir.checkpoints)]
    if chosen and chosen not in there:
        raise SourceError(
            f"{run_dir.checkpoints}: no checkpoint of step {chosen}; there are: "
            f"{steps_in(run_dir.checkpoints)}"
        )
    same_since = _same_since(events)
    step = max(there, default=0) if chosen is None else chosen
    # A commit whose event was lost with its controller has left its checkpoint all the same.
    has_committed = bool(committed or there)
    return ResumePoint(
        generation=_next_generation(run_dir, events),
        step=step,
        fired=frozenset(fired),
        has_committed=has_committed,
        chosen=chosen,
        same_since=same_since,
        quarantined=tuple(e.device for e in events if isinstance(e, DeviceQuarantined)),
        skipped=_skipped(events, same_since),
    )


def with_memory(point: ResumePoint, run_dir: RunDir, before: Job, after: Job) -> ResumePoint:
    """The same, with what is known of workers that have lost their controller: whose memory counts,
    and which steps are told. Nobody's does for a resume that asks for a certain checkpoint, for
    other bits, or to be kept otherwise in memory."""
    is_same = before.fault.snapshots == after.fault.snapshots
    if point.chosen is not None or point.changed or not is_same:
        return point
    recorded = None
    with contextlib.suppress(RecordError, OSError):  # rows may be told again: that harms nothing
        for row in run_dir.stream_metrics():
            recorded = row["step"]
    adopts_from = newest_generation(run_dir.read_events())
    return replace(point, adopts_from=adopts_from, recorded=recorded)


def of_follower(
    point: ResumePoint, events: Sequence[Event], died: tuple[float, float]
) -> ResumePoint:
    """What a controller goes on with that follows a dead one by itself: nobody has looked, so that
    the failures since the last typed command count for it too. `died`: as in `ResumePoint`.

    Of what was raised the record does not say where, so that no failure is known again by that.
    """
    before: list[PastFailure] = []
    failures: list[PastFailure] = []
    stepped: set[int] = set()
    committed_at = None
    for event in events:
        match event:
            case RunCreated():
                before, failures = failures, []
            case FailureDiagnosed() if _tells_death_before(event):
                failures = [*before, *failures]  # this controller's command was typed by nobody
                before = []
            case FailureDiagnosed():
                failures.append(_past_failure(event, event.generation in stepped))
            case RecoveryDecided(action="ignore") if failures:
                failures.pop()
            case FirstStep():
                stepped.add(event.generation)
            case CheckpointCommitted():
                committed_at = event.monotonic_s
    return replace(point, died=died, failures=tuple(failures), committed_at=committed_at)


def _tells_death_before(event: FailureDiagnosed) -> bool:
    """Whether a controller tells the death of the one that it follows, and no pause of its own."""
    return event.who.kind == "controller" and event.who.name != str(event.fence)


def _past_failure(event: FailureDiagnosed, has_stepped: bool) -> PastFailure:
    kind = cast("FailureKind", event.failure)
    diagnosis = Diagnosis(event.who, kind, event.cause, event.detail)
    at_s = event.monotonic_s
    return PastFailure(event.generation, diagnosis, has_stepped, at_s=at_s)


def beginning_words(point: ResumePoint) -> str:
    """That a resume has nothing to go on from, and what it does; empty where that is not so, and
    for a new run."""
    if point.has_committed or point == FROM_START:
        return ""
    if point.adopts_from is not None:
        return (
            "the run had committed no checkpoint, so that it starts from the beginning, unless "
            "its workers are there and hold a step"
        )
    return "the run had committed no checkpoint, so that it starts from the beginning"


def lost_history_words(run_dir: RunDir, point: ResumePoint) -> str:
    """That the record of the run's events is lost, and what with it; empty where it is there, or
    nothing has been recorded yet."""
    if not _is_history_lost(run_dir, run_dir.read_events()):
        return ""
    what = "holds nothing of this run" if run_dir.events_file.is_file() else "is gone"
    return (
        f"{run_dir.events_file} {what}: its history is lost (faults, times, goodput, devices in "
        "quarantine, drills that were carried out) and begins anew now; what it has trained is "
        f"whole, and it goes on from step {point.step}"
    )


def _is_history_lost(run_dir: RunDir, events: Sequence[Event]) -> bool:
    """Whether a run that has trained tells of no controller."""
    if any(isinstance(event, RunCreated) for event in events):
        return False
    has_trained = bool(run_dir.read_last_metrics(lambda _: None))
    return has_trained or bool(list_committed(run_dir.checkpoints))


def _skipped(events: Sequence[Event], same_since: int) -> frozenset[int]:
    """Steps that the run has left out since its last change of what may change bits."""
    found = set()
    for event in events:
        if isinstance(event, StepSkipped) and event.generation >= same_since:
            found.add(event.step)
    return frozenset(found)


def _same_since(events: Sequence[Event]) -> int:
    """The first generation that was computed after the last change of a key that may change
    bits."""
    first, changed = 1, False
    for event in events:
        if isinstance(event, RunCreated):
            changed = bool(event.changed)
        elif isinstance(event, FirstStep) and changed:
            # A resume that came to no step has computed nothing with what it changed.
            first, changed = event.generation, False
    return first


def _next_generation(run_dir: RunDir, events: Sequence[Event]) -> int:
    """The first number that no other controller of the run has used, or may yet use.

    Each keeps to the thousand in which it begins. As a rule the next one goes on behind it; where
    it may only be asleep, in the next thousand, and further on by one for each controller before
    it that has written nothing yet.
    """
    seen = max((event.generation for event in events), default=0)
    if _is_history_lost(run_dir, events):
        # Rows and logs bear the numbers of those whose events are lost.
        rows = run_dir.read_last_metrics(lambda _: None)
        told = [row.get("generation", 1) for row in rows]
        seen = max([seen, *told, *[generation for generation, _ in run_dir.log_files()]])
    known = max((event.fence for event in events), default=0)
    thousand = max(seen - 1, 0) // GENERATIONS
    if not are_past(run_dir.path, max(known, 1), run_dir.fence - 1):
        return (thousand + max(run_dir.fence - known, 1)) * GENERATIONS + 1
    is_full = seen > (thousand + 1) * GENERATIONS - _LEFT
    return (thousand + 1) * GENERATIONS + 1 if is_full else seen + 1


class StepsDoneError(JobError):
    """All the steps that a run is to have are done already."""


def refuse_if_done(
    run_dir: RunDir, point: ResumePoint, steps: int, key: SigningKey | None
) -> ResumePoint:
    """The point from which there are steps to go on with. A run whose last checkpoint is damaged is
    not done: it goes on from the newest valid one, as any other does. StepsDoneError where there is
    none, CheckpointError where no checkpoint is valid."""
    if point.step < steps:
        return point
    root = run_dir.checkpoints
    results: list[VerifyResult] = []
    found = newest_valid(root, results.append, key=key) if point.chosen is None else None
    if found is None and point.chosen is None:
        names = [result.directory.name for result in results]
        raise none_is_valid(root, names, resume_command(run_dir.path), key)
    step = point.step if found is None else step_of(found) or 0
    if step < steps:
        return replace(point, step=step)
    further = 2 * max(steps, step)
    raise StepsDoneError(
        f"{run_dir.path}: step {step} of {steps} is done already; to go on "
        f"further, add `-o steps={further}`; to go on from an earlier checkpoint, `--step N` "
        f"(there are: {steps_in(root)})"
    )
