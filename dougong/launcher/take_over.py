"""What a controller takes over from those that the run had before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.repository import steps_in
from dougong.errors import SourceError
from dougong.fault.diagnosis import Diagnosis, FailureKind
from dougong.fault.drill import FiredDrill
from dougong.fault.policy import PastFailure
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
from dougong.records.lease import are_past

_LEFT = 100
"""A controller that has fewer numbers left in its thousand begins the next one."""


def take_over(run_dir: RunDir, chosen: int | None = None) -> ResumePoint:
    """What the run's record and its checkpoints say of its earlier life. `chosen`: as in
    `ResumePoint`; SourceError where there is no checkpoint of that step."""
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
    return "the run had committed no checkpoint, so that it starts from the beginning"


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
    known = max((event.fence for event in events), default=0)
    thousand = max(seen - 1, 0) // GENERATIONS
    if not are_past(run_dir.path, max(known, 1), run_dir.fence - 1):
        return (thousand + max(run_dir.fence - known, 1)) * GENERATIONS + 1
    is_full = seen > (thousand + 1) * GENERATIONS - _LEFT
    return (thousand + 1) * GENERATIONS + 1 if is_full else seen + 1
