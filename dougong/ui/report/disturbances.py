"""Faults that ended no generation: what was suspected and taken back, storage and Ray that did not
answer, checkpoints that were not saved, steps that were left out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dougong.job.drills.vocabulary import known_fault
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointFailed,
    DrillFired,
    FailureDiagnosed,
    GenerationStarted,
    RayChanged,
    RunCreated,
    RunEnded,
    RunGrown,
    RunShrunk,
    SpareLost,
    SpareStands,
    StepSkipped,
    StorageAnswered,
    StorageTroubled,
    SurvivorLost,
    Suspected,
    SuspicionEnded,
)
from dougong.ui.event_words import healed_words, trouble_words
from dougong.ui.formatting import plural, worker_list
from dougong.ui.report.fault_row import FaultRow, Story, is_same
from dougong.ui.sentences import failure_words

SUSPICION = "suspicion"
GENERATION_ENDED = "its generation ended"


def suspicions(story: Story) -> Iterator[FaultRow]:
    """Those that led to no failure of the suspected."""
    for index, event in enumerate(story.events):
        if isinstance(event, Suspected) and index not in story.told:
            yield _suspicion(story, index, event)


def _suspicion(story: Story, index: int, event: Suspected) -> FaultRow:
    row = replace(
        story.row(index, SUSPICION, str(event.culprit)),
        run_s=story.moments[index] - event.since_s,
        text="; ".join([event.why, *event.evidence]),
        suspected_s=event.since_s,
        drill=story.drill_on(event.culprit, index),
    )
    for _, later in story.after(index):
        match later:
            case SuspicionEnded(culprit=who, seconds=seconds) if is_same(who, event.culprit):
                return replace(row, recovered_s=seconds, outcome="went on by itself")
            case FailureDiagnosed() | GenerationStarted() | RunCreated() | RunEnded():
                return replace(row, outcome=GENERATION_ENDED)
    return replace(row, outcome=story.until_now, look="open")


def troubles(story: Story) -> Iterator[FaultRow]:
    """Storage that refused, or did not answer, until it did again."""
    open_rows: dict[tuple[str, str, str], FaultRow] = {}
    for index, event in enumerate(story.events):
        match event:
            case StorageTroubled():
                who = event.worker or (f"agent {event.agent}" if event.agent else "controller")
                row = replace(story.row(index, "storage", who), text=trouble_words(event))
                # Another reason is news, and not another beginning.
                open_rows.setdefault(_writer(event), row)
            case StorageAnswered() if _writer(event) in open_rows:
                row = open_rows.pop(_writer(event))
                yield replace(row, recovered_s=event.seconds, outcome=healed_words(event))
    for row in open_rows.values():
        yield replace(row, outcome=story.until_now, look="open")


def _writer(event: StorageTroubled | StorageAnswered) -> tuple[str, str, str]:
    return event.worker, event.agent, event.what


def unsaved(story: Story) -> Iterator[FaultRow]:
    """Checkpoints that were not committed, in a row until one was."""
    open_row: FaultRow | None = None
    for index, event in enumerate(story.events):
        if isinstance(event, CheckpointFailed) and open_row is None:
            row = story.row(index, "checkpoint not saved", f"step {event.step}")
            open_row = replace(row, text=event.reason, outcome=story.until_now, look="open")
        elif isinstance(event, CheckpointCommitted) and open_row is not None:
            row = _over(story, open_row, index, f"saved again with step {event.step}")
            yield replace(row, look="mild")
            open_row = None
    if open_row is not None:
        yield open_row


def ray(story: Story) -> Iterator[FaultRow]:
    """Parts of Ray that were lost, until they were there again."""
    open_rows: dict[str, FaultRow] = {}
    for index, event in enumerate(story.events):
        if not isinstance(event, RayChanged):
            continue
        if event.is_lost:
            row = replace(story.row(index, "lost", f"Ray's {event.part}"), text=event.text)
            open_rows.setdefault(event.part, row)
        elif event.part in open_rows:
            yield _over(story, open_rows.pop(event.part), index, "training went on")
    for row in open_rows.values():
        yield replace(row, outcome=f"training went on; {story.until_now}")


def fewer_workers(story: Story) -> Iterator[FaultRow]:
    """Workers that the run went on without, until they were back."""
    without: FaultRow | None = None
    for index, event in enumerate(story.events):
        match event:
            case RunShrunk():
                who = worker_list(event.missing)
                words = f"{event.now} of {plural(event.before, 'worker')} go on: {event.reason}"
                without = without or replace(story.row(index, "fewer workers", ""), look="fault")
                without = replace(without, who=who, text=words)
            case RunGrown() if without is not None:
                yield _over(story, without, index, f"back to {plural(event.now, 'worker')}")
                without = None
    if without is not None:
        yield replace(without, outcome=story.until_now)


def spares(story: Story) -> Iterator[FaultRow]:
    """Agents that stood by and were lost, until others did."""
    lost: FaultRow | None = None
    for index, event in enumerate(story.events):
        match event:
            case SpareLost():
                row = story.row(index, "spare lost", f"{event.agent} on {event.node}")
                lost = lost or replace(row, text=event.reason)
            case SpareStands() if lost is not None:
                yield _over(story, lost, index, f"{event.agent} on {event.node} stands by")
                lost = None
    if lost is not None:
        yield replace(lost, outcome=story.until_now)


def _over(story: Story, row: FaultRow, index: int, outcome: str) -> FaultRow:
    return replace(row, recovered_s=story.moments[index] - row.run_s, outcome=outcome)


def others(story: Story) -> Iterator[FaultRow]:
    """Survivors that were lost too, and steps that were left out."""
    for index, event in enumerate(story.events):
        match event:
            case SurvivorLost():
                words = failure_words(event.failure, event.cause)
                row = story.row(index, event.failure.replace("_", " "), str(event.who))
                yield replace(row, text=words, look="fault", outcome="replaced with the first")
            case StepSkipped(step=step, where=where):
                row = story.row(index, "not finite", f"step {step}")
                yield replace(row, text=where, outcome="its update was left out")


def unseen_drills(story: Story) -> Iterator[FaultRow]:
    """Drills by which nothing was seen. All other rows have been read by then."""
    for index, event in enumerate(story.events):
        if isinstance(event, DrillFired) and index not in story.told:
            known = known_fault(event.action)
            may_pass = known is not None and not known.must_be_named
            outcome = "nothing came of it" if may_pass else "nothing was named"
            row = story.row(index, event.action.replace("_", " "), event.worker)
            yield replace(row, drill=event.action, outcome=outcome)
