"""Faults that were decided about, and controllers that died: how soon suspected, acted on and over,
how many steps were lost, and where the state came from. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dougong.fault.culprit import Culprit
from dougong.records.events import (
    DrillFired,
    FailureDiagnosed,
    GenerationStarted,
    RunCreated,
    Suspected,
    SuspicionEnded,
)
from dougong.ui.event_words import measure_words, tier_words
from dougong.ui.recoveries import GONE, Recovery
from dougong.ui.report.fault_row import FaultRow, Look, Story, is_same

_ROUNDING = 1e-3


def failures(story: Story) -> Iterator[FaultRow]:
    """One for each that was named."""
    for recovery in story.history.recoveries:
        began_s, suspected_s = _beginning(story, recovery)
        named_s = story.moments[_named_at(recovery)]
        over_at = recovery.over_at
        outcome, look = _outcome(story, recovery)
        yield replace(
            story.row(recovery.index, recovery.failure.replace("_", " "), recovery.place),
            run_s=began_s,
            wall=story.wall_at(recovery.index, began_s),
            text=recovery.cause,
            drill=_drill(story, recovery),
            outcome=outcome,
            decided=", then ".join(map(measure_words, recovery.decided)),
            look=look,
            suspected_s=suspected_s,
            acted_s=max(named_s - began_s, 0.0),
            recovered_s=None if over_at is None else story.moments[over_at] - began_s,
            steps_lost=_steps_lost(recovery),
            tier=_tier(recovery),
        )


def _named_at(recovery: Recovery) -> int:
    return recovery.index if recovery.named_at is None else recovery.named_at


def _beginning(story: Story, recovery: Recovery) -> tuple[float, float | None]:
    """When the fault was, in the run's time, and after how long it was first suspected."""
    if recovery.culprit.kind == "controller":
        return _died_s(story, recovery), None
    suspect, drill = _suspicion_of(story, recovery), _drill_of(story, recovery)
    if suspect is not None:
        at, seen = suspect
        began_s = at - seen.since_s if drill is None else drill
        return began_s, max(at - began_s, 0.0)
    first_s = story.moments[recovery.index]
    if drill is not None:
        return drill, first_s - drill
    named = story.events[_named_at(recovery)]
    latency_s = named.latency_s if isinstance(named, FailureDiagnosed) else None
    return first_s - (latency_s or 0.0), None


def _suspicion_of(story: Story, recovery: Recovery) -> tuple[float, Suspected] | None:
    """What was suspected of it, and not taken back, when it was named; and when."""
    culprit: Culprit = recovery.culprit
    for earlier, event in story.before(recovery.index):
        match event:
            case Suspected(culprit=who) if is_same(who, culprit):
                story.told.add(earlier)
                return story.moments[earlier], event
            case SuspicionEnded(culprit=who) if is_same(who, culprit):
                return None
            case GenerationStarted() | RunCreated():
                return None
    return None


def _drill(story: Story, recovery: Recovery) -> str:
    """Which one it was; a controller's was fired in the life of the controller before."""
    if recovery.culprit.kind == "controller":
        # What another controller tells first comes after that one's own beginning.
        return story.drill_on(recovery.culprit, recovery.index + (recovery.failure == GONE))
    if not recovery.drill:
        return ""
    fired, culprit = _fired(story, recovery), recovery.culprit
    if fired is None or culprit.kind != "worker" or culprit.name == fired[1].worker:
        return recovery.drill
    return f"{recovery.drill} on {fired[1].worker}"


def _drill_of(story: Story, recovery: Recovery) -> float | None:
    """When it was rehearsed, if it was."""
    fired = _fired(story, recovery) if recovery.drill else None
    if fired is None:
        return None
    story.told.add(fired[0])
    return story.moments[fired[0]]


def _fired(story: Story, recovery: Recovery) -> tuple[int, DrillFired] | None:
    """Its drill: which of the events it is."""
    for earlier, event in story.before(recovery.index):
        if isinstance(event, DrillFired) and event.action == recovery.drill:
            return earlier, event
    return None


def _outcome(story: Story, recovery: Recovery) -> tuple[str, Look]:
    if recovery.is_ignored:
        return "nothing ended by it", "mild"
    if recovery.over_at is not None:
        return "trained again", "fault"
    if recovery.failure == GONE and not _is_followed(story, recovery):
        return "nobody leads the run", "open"
    later = [other for other in story.history.recoveries if other.index > recovery.index]
    if any(not other.is_ignored for other in later):
        return "another fault came before the next step", "fault"
    if any(isinstance(event, RunCreated) for _, event in story.after(recovery.index)):
        return "the run was resumed", "fault"
    if story.has_ended and (story.history.state == "stopped" or "stop" in recovery.decided):
        return "the run was being stopped", "fault"
    return ("the run ended by it" if story.has_ended else "not over yet"), "open"


def _steps_lost(recovery: Recovery) -> int | None:
    if recovery.is_ignored:
        return 0
    if recovery.lost_steps is None and recovery.over is not None:
        return max(recovery.step - recovery.over.step, 0)
    return recovery.lost_steps


def _tier(recovery: Recovery) -> str:
    """Where the next generation's state came from."""
    if recovery.over_at is None:
        return ""
    if recovery.over is not None and recovery.over.tiers:
        return tier_words(recovery.over.tiers)
    if recovery.memory_step is not None:
        return "memory"
    return recovery.resumed_from or "the beginning"


# Controllers


def _is_followed(story: Story, recovery: Recovery) -> bool:
    """Whether another controller has told of this one's end."""
    return recovery.failure != GONE or isinstance(story.events[recovery.index], RunCreated)


def _died_s(story: Story, recovery: Recovery) -> float:
    """When a controller that died was last heard of: that is what is known."""
    told_s = story.moments[recovery.index]
    if not _is_followed(story, recovery):
        return told_s
    for one in reversed(story.history.course.stretches):
        if one.part == "down" and one.end_s <= told_s + _ROUNDING:
            return one.start_s
    return told_s
