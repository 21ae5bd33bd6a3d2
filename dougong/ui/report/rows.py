"""What the page's tables and bars show, as plain values. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from dougong.parallel.plan import Plan, Worker
from dougong.records.events import (
    CheckpointStarted,
    Event,
    FailureDiagnosed,
    FirstStep,
    PhaseEnded,
    PhaseStarted,
    RecoveryDecided,
    RunCreated,
    StateChanged,
    WarningRaised,
    WorkerDied,
)
from dougong.records.machine import Machine
from dougong.records.status import WorkerState
from dougong.records.unsaved import unsaved_words
from dougong.ui.event_words import tier_words
from dougong.ui.formatting import duration, plural, ranges, site_experts, size, spans
from dougong.ui.history import History
from dougong.ui.recoveries import Recovery, parts_of
from dougong.ui.sentences import Level, describe, moves


@dataclass(frozen=True)
class RecoveryPart:
    """A stretch of a recovery's bar. `width`: per cent of the longest recovery of the run."""

    name: str
    seconds: float
    look: str
    width: float


@dataclass(frozen=True)
class RecoveryRow:
    """A failure; `parts` are empty when no step followed it. `generations`: those that it ended in
    the same way, one after the other."""

    recovery: Recovery
    parts: Sequence[RecoveryPart]
    outcome: str
    generations: Sequence[int] = ()

    @property
    def where(self) -> str:
        """Which generations, and how many if there are several."""
        if len(self.generations) < 2:
            return f"generation {self.recovery.generation}"
        return f"{len(self.generations)} times, generations {ranges(self.generations)}"


@dataclass(frozen=True)
class Strip:
    """Which of some numbered things are a worker's: in words, and as (start, width) of stretches in
    per cent of them all."""

    text: str
    stretches: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class WorkerRow:
    """One worker of the plan. `num_tensors`: dense ones, or pieces, whose optimizer state
    it holds."""

    worker: Worker
    host: str
    pid: int | None
    lanes: Strip
    experts: Strip
    num_tensors: int


@dataclass(frozen=True)
class EventRow:
    """One event in words; `after` says how long after the one before it."""

    event: Event
    after: str
    level: Level
    text: str


def recovery_rows(recoveries: Sequence[Recovery]) -> list[RecoveryRow]:
    """One for each failure, their bars on one scale; one for failures that are the same, between
    which no step was done."""
    longest = max((recovery.total_s or 0.0 for recovery in recoveries), default=0.0)
    rows = []
    for _, alike in itertools.groupby(recoveries, key=_what_happened):
        same = list(alike)
        first, generations = same[0], tuple(recovery.generation for recovery in same)
        if first.total_s is None:
            outcome = _outcome(first) if first.is_ignored else ""
            rows.append(RecoveryRow(first, (), outcome, generations))
        else:
            parts = _parts(first, longest)
            rows.append(RecoveryRow(first, parts, _outcome(first), generations))
    return rows


def _what_happened(recovery: Recovery) -> tuple[object, ...]:
    """Alike for failures of which one is as good as all. One that a step followed is its own."""
    if recovery.total_s is not None:
        return (recovery.generation,)
    return recovery.culprit, recovery.failure, recovery.cause, recovery.step


@dataclass(frozen=True)
class StartRow:
    """One start of workers. `phases`: name -> seconds, in order; `total_s`: all of them."""

    name: str
    phases: dict[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.phases.values())


def start_rows(events: Sequence[Event]) -> list[StartRow]:
    """What each start, resume and recovery was at, and how long."""
    rows: list[StartRow] = []
    name, phases = "start", dict[str, float]()
    for event in events:
        match event:
            case RunCreated():
                name, phases = ("resume" if event.generation > 1 else "start"), {}
            case RecoveryDecided() if event.breaks:
                name, phases = "recovery", {}
            case PhaseEnded(phase=phase, seconds=seconds):
                phases[phase] = phases.get(phase, 0.0) + seconds
            case FirstStep():
                if phases:
                    rows.append(StartRow(f"{name}, generation {event.generation}", phases))
                phases = {}
            case _:
                pass
    # A start that came to no step says how far it came.
    return [*rows, StartRow(f"{name}, no step", phases)] if phases else rows


def warning_words(events: Sequence[Event], note: str = "") -> list[str]:
    """That the run is not saved, then every warning once, in the order of the first; how often,
    where it came again. `note`: which damaged rows the page does without, empty for none."""
    times: dict[str, int] = {}
    for first in (unsaved_words(events), note):
        if first:
            times[first] = 1  # it is what the reader must know
    for event in events:
        if isinstance(event, WarningRaised):
            text = describe(event).text
            times[text] = times.get(text, 0) + 1
    return [text if number == 1 else f"{text} ({number} times)" for text, number in times.items()]


def worker_rows(history: History, plan: Plan) -> list[WorkerRow]:
    """One for each worker, in the order of their ranks; hosts and processes are the newest
    known."""
    states = {state.name: state for state in history.workers}
    return [_worker_row(worker, plan, states.get(worker.name)) for worker in plan.workers]


def event_rows(events: Sequence[Event]) -> list[EventRow]:
    """One for each event, in the order written, but for those that only tell programs where the run
    is."""
    rows = []
    before = None
    for event in events:
        if isinstance(event, StateChanged | PhaseStarted | CheckpointStarted):
            continue
        if before is not None and _says_the_same(event, before):
            continue
        sentence = describe(event)
        rows.append(EventRow(event, _after(before or event, event), sentence.level, sentence.text))
        before = event
    return rows


def _says_the_same(event: Event, before: Event) -> bool:
    """A diagnosis that only repeats the death before it."""
    if not (isinstance(event, FailureDiagnosed) and isinstance(before, WorkerDied)):
        return False
    told = (before.worker, before.failure, before.cause)
    return told == (event.worker, event.failure, event.cause) and not event.evidence


def class_words(classes: dict[str, str]) -> str:
    """`east 3f2a..., west 91cc...`: one entry for each island and class of arithmetic."""
    found: dict[str, None] = {}
    for worker, name in classes.items():
        island, _, _ = worker.rpartition("/")
        found[f"{island} {name}"] = None
    return ", ".join(found)


def machine_facts(machine: Machine) -> list[tuple[str, str]]:
    """What is known of the controller's machine, by name."""
    memory = size(machine.memory_bytes) if machine.memory_bytes else ""
    facts = [
        ("Host", machine.host),
        ("Platform", machine.platform),
        ("CPU", machine.cpu),
        ("Cores", str(machine.cores or "")),
        ("Python", machine.python),
        ("Memory", memory),
        *sorted(machine.versions.items()),
    ]
    return [(name, value) for name, value in facts if value]


def _parts(recovery: Recovery, longest: float) -> list[RecoveryPart]:
    parts = []
    for name, seconds, look in _stretches(recovery):
        if seconds is not None:
            width = 100 * seconds / longest if longest else 0.0
            parts.append(RecoveryPart(name, seconds, look, width))
    return parts


def _stretches(recovery: Recovery) -> list[tuple[str, float | None, str]]:
    """Name, seconds and look of each, as the controller has told them; coarser ones of a run of an
    earlier release."""
    if recovery.over is None:
        return [
            ("noticed", recovery.noticed_s, "noticed"),
            ("new generation", recovery.restart_s, "restarted"),
            ("first step", recovery.reload_s, "stepped"),
        ]
    looks = {
        "noticed": "noticed",
        "decided": "noticed",
        "first step": "stepped",
        "state": "stepped",
    }
    told = parts_of(recovery.over)
    return [(name, seconds, looks.get(name, "restarted")) for name, seconds in told]


def _outcome(recovery: Recovery) -> str:
    start = "started again from the beginning"
    if recovery.resumed_from is not None:
        start = f"resumed from {recovery.resumed_from}"
    if recovery.is_ignored:
        return "nothing ended by it, and training went on"
    if recovery.memory_step is not None:
        start = f"went on from {_state_words(recovery)}"
    words = [f"{start}, {plural(recovery.lost_steps or 0, 'step')} lost"]
    if recovery.over is not None:
        kept = plural(len(recovery.over.kept), "worker")
        words.append(f"{kept} kept, {len(recovery.over.forked)} forked")
    if recovery.waited_s is not None:
        words.append(f"waited {duration(recovery.waited_s)} for a node")
    return "; ".join([*words, *moves(recovery.moved)])


def _state_words(recovery: Recovery) -> str:
    """Which state, and where its bytes came from where that is known."""
    if recovery.over is None:
        return "memory"
    tiers = tier_words(recovery.over.tiers)
    return f"step {recovery.over.step}" + (f" ({tiers})" if tiers else "")


def _worker_row(worker: Worker, plan: Plan, state: WorkerState | None) -> WorkerRow:
    experts: set[int] = set()
    for numbers in worker.experts:
        experts.update(numbers)
    owners = list(plan.owners.values())
    return WorkerRow(
        worker,
        host=state.host if state else worker.node,
        pid=state.pid if state else None,
        lanes=_strip(worker.lanes, plan.num_lanes, ranges(worker.lanes)),
        experts=_strip(sorted(experts), plan.num_experts, site_experts(worker.experts)),
        num_tensors=owners.count(worker.rank),
    )


def _strip(numbers: Sequence[int], total: int, text: str) -> Strip:
    stretches = []
    for first, last in spans(numbers):
        stretches.append((100 * first / total, 100 * (last + 1 - first) / total))
    return Strip(text.replace("-", "–") or "none", stretches)


def _after(before: Event, event: Event) -> str:
    """Empty where the clock began anew between the two."""
    seconds = event.monotonic_s - before.monotonic_s
    if seconds < 0:
        return ""
    return f"+{seconds:.3f} s" if seconds < 60 else f"+{duration(seconds)}"
