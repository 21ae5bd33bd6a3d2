"""What is true of a run now, as far as its events and rows have come. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from dougong.fault.culprit import Culprit
from dougong.parallel.plan import Plan
from dougong.records.events import (
    AgentsStarted,
    CheckpointCommitted,
    CheckpointFailed,
    CheckpointRejected,
    Event,
    FailureDiagnosed,
    FirstStep,
    GenerationStarted,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Recovered,
    RecoveryDecided,
    RunEnded,
    StateChanged,
    Suspected,
    SuspicionEnded,
    Waiting,
)
from dougong.records.metrics import MetricsRow
from dougong.records.status import Goodput, RunStatus, WorkerState
from dougong.records.unsaved import commit_words
from dougong.ui.event_words import OpenTroubles, measure_words
from dougong.ui.formatting import duration
from dougong.ui.recoveries import RecoveryReader, num_failures
from dougong.ui.sentences import PHASES, failure_words

_STATES_WITHOUT_PACE = ("recovering", "growing", "finished", "stopped", "failed")
_KEPT_LOSSES = 2000


@dataclass(frozen=True)
class NewestCheckpoint:
    """`committed_at`: seconds of the view's clock; None for one that the run was resumed from."""

    name: str
    committed_at: float | None


@dataclass(frozen=True)
class LastFault:
    """The newest failure. `at`: when it was named, by the view's clock; `outcome`: what is decided,
    and then what became of it; empty while nothing has."""

    text: str
    at: float
    outcome: str = ""


@dataclass
class RunProgress:
    """The run as far as events and rows have come; times are seconds of the view's clock.

    `phase`: what a start or a recovery is at, and since when; `awaited`: what it waits for there,
    and since when. `suspects`: what seems to hold up the run, and why. `shares`: the part of all
    lanes that each island runs. `arrivals`: when the last steps came. `unsaved`: since when there
    is no checkpoint and why, empty where the newest one was committed; `storage`: what cannot be
    written. `workers`, `goodput`, `told_failures` and `reserve`: as the newest status says;
    `recoveries`: those of this controller.
    """

    job_name: str
    steps: int
    started_at: float
    state: str = "starting"
    generation: int = 1
    row: MetricsRow | None = None
    validation: tuple[int, float] | None = None
    checkpoint: NewestCheckpoint | None = None
    unsaved: str = ""
    storage: OpenTroubles = field(default_factory=OpenTroubles)
    told_failures: int = 0
    recoveries: RecoveryReader = field(default_factory=RecoveryReader)
    fault: LastFault | None = None
    workers: tuple[WorkerState, ...] = ()
    goodput: Goodput | None = None
    reserve: tuple[str, ...] = ()
    phase: tuple[Phase, float] | None = None
    awaited: tuple[str, float] | None = None
    suspects: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    losses: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_KEPT_LOSSES))
    arrivals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=20))

    def take_plan(self, plan: Plan) -> None:
        """Who runs what from now on: each island's part of the lanes."""
        lanes = {worker.island: 0 for worker in plan.workers}
        for worker in plan.workers:
            lanes[worker.island] += len(worker.lanes)
        self.shares = {name: number / plan.num_lanes for name, number in lanes.items()}

    def take(self, row: MetricsRow, now: float) -> None:
        """A step's row: a step that comes again drops what was rewound."""
        self._rewind(row["step"])
        is_late = row["generation"] < self.generation  # its teller was lost, and others had kept it
        self.row, self.generation = row, max(row["generation"], self.generation)
        self.losses.append((row["step"], row["loss"]))
        if not is_late:
            self.arrivals.append((now, row["step"]))
        if row.get("val_loss") is not None:
            self.validation = (row["step"], row["val_loss"])

    def take_status(self, status: RunStatus) -> None:
        """What the run's status says beside its events."""
        self.workers, self.goodput = status.workers, status.goodput
        self.reserve, self.told_failures = status.reserve, status.recoveries

    def note(self, event: Event, now: float) -> None:
        """What an event changes: the newest checkpoint, the pace, the last fault, the state."""
        self.generation = max(self.generation, event.generation)
        self.recoveries.take(event)
        self._note_course(event, now)
        self._note_suspects(event)
        self._note_fault(event, now)
        self._note_checkpoint(event, now)
        self.storage.note(event)

    def _note_suspects(self, event: Event) -> None:
        match event:
            case Suspected(culprit=culprit, why=why):
                self.suspects[str(culprit)] = why
            case SuspicionEnded(culprit=culprit):
                self.suspects.pop(str(culprit), None)
            case FailureDiagnosed(culprit=Culprit(kind="fork_server" | "controller")):
                self.suspects.pop(str(event.who), None)  # no generation has ended with it
            case FailureDiagnosed() | GenerationStarted() | RunEnded():
                self.suspects.clear()

    def _note_fault(self, event: Event, now: float) -> None:
        match event:
            case FailureDiagnosed():
                words = failure_words(event.failure, event.cause)
                self.fault = LastFault(f"{event.who}: {words}", now)
            case RecoveryDecided(action="ignore") if self.fault is not None:
                self.fault = replace(self.fault, outcome="nothing ended by it")
            case RecoveryDecided() if self.fault is not None and event.is_of_fault:
                self.fault = replace(self.fault, outcome=f"decision: {measure_words(event.action)}")
            case Recovered() if self.fault is not None:
                took = duration(event.first_step_s)
                self.fault = replace(self.fault, outcome=f"trained again after {took}")
            case _:
                pass

    def _note_course(self, event: Event, now: float) -> None:
        match event:
            case StateChanged():
                self.state = event.state.lower()
            case RunEnded():
                self.state, self.phase, self.awaited = event.kind, None, None
            case PhaseStarted():
                self.phase = (event.phase, now)
            case PhaseEnded() | FirstStep() | FailureDiagnosed():
                self.phase = self.awaited = None
            case Waiting():
                since = now if self.awaited is None else self.awaited[1]
                self.awaited = (event.text, since)
            case AgentsStarted():
                self.awaited = None
            case GenerationStarted():
                self.arrivals.clear()
            case _:
                pass

    def _note_checkpoint(self, event: Event, now: float) -> None:
        match event:
            case GenerationStarted(resume=str() as name) if self.checkpoint is None:
                self.checkpoint = NewestCheckpoint(name, None)
            case CheckpointCommitted():
                self.checkpoint = NewestCheckpoint(f"step {event.step}", now)
                self.unsaved = ""
            case CheckpointFailed():
                self.unsaved = commit_words(event)
            # One that is found beside training is an old one: the newest has just been written.
            case CheckpointRejected() if self.state != "running":
                self.checkpoint = None
            case _:
                pass

    @property
    def failures(self) -> int:
        """Of all the run's controllers, as far as that is known."""
        return max(num_failures(self.recoveries.recoveries), self.told_failures)

    def phase_words(self, now: float) -> str:
        """What a start or a recovery is at, and how long; empty while none is under way."""
        if self.phase is None:
            return ""
        phase, since = self.phase
        return f"{PHASES[phase]}, {duration(now - since)}"

    def awaited_words(self, now: float) -> str:
        """What is waited for, and how long by now; empty while nothing is."""
        if self.awaited is None:
            return ""
        text, since = self.awaited
        return f"waiting {duration(now - since)}: {text}"

    def eta_s(self, now: float) -> float | None:
        """Seconds left at the pace of the last steps, checkpoints and validation counted; None
        when unknown."""
        if self.row is None or not self.arrivals or self.state in _STATES_WITHOUT_PACE:
            return None
        last_at, last = self.arrivals[-1]
        left_s = (self.steps - last) * self._seconds_a_step(self.row) - (now - last_at)
        return max(left_s, 0.0)

    def island_rates(self) -> dict[str, float]:
        """Tokens/s of each island that runs lanes: its own number when the row has it, else its
        share of the lanes."""
        if self.row is None:
            return {}
        rates = {}
        for island, times in self.row.get("islands", {}).items():
            shared = self.shares.get(island, 0.0) * self.row["tokens_per_s"]
            rate = times.get("tokens_per_s", shared)
            if rate:
                rates[island] = rate
        return rates

    def _seconds_a_step(self, row: MetricsRow) -> float:
        """From arrival to arrival, so that what lies between steps counts; of a first step its own
        time is all that is known."""
        (first_at, first), (last_at, last) = self.arrivals[0], self.arrivals[-1]
        if last > first:
            return (last_at - first_at) / (last - first)
        return float(row["step_s"])

    def _rewind(self, step: int) -> None:
        """Forget what was known of `step` and later ones."""
        while self.losses and self.losses[-1][0] >= step:
            self.losses.pop()
        if self.arrivals and self.arrivals[-1][1] >= step:
            self.arrivals.clear()
        if self.validation is not None and self.validation[0] >= step:
            self.validation = None
