"""A run's failures and what followed each: read from its events. Pure.

Durations between two events use the monotonic clock, which holds from a controller's start to its
end; a failure that is made good by a later `dougong resume` has no duration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dougong.fault.culprit import Culprit
from dougong.job.drills.vocabulary import known_fault
from dougong.records.events import (
    AgentsStarted,
    DrillFired,
    Event,
    FailureDiagnosed,
    FirstStep,
    GenerationStarted,
    MovedWorker,
    PlanLaid,
    Recovered,
    RecoveryDecided,
    RunCreated,
    RunEnded,
    Waiting,
    WorkerDied,
)
from dougong.records.metrics import MetricsRow

GONE = "gone"
"""The class of a controller's failure of which nobody has seen more."""


@dataclass(frozen=True)
class Recovery:
    """One failure, of a worker or another part of the run or of a controller, and what followed.
    Seconds are None as long as (or because) that part did not happen.

    generation: the one that the failure ended. step: the last one that it had done.
    noticed_s: from the fault to its notice, known for drills. restart_s: from the notice to the
    start of the next generation; of that, waited_s: for nodes or storage. reload_s: from there to
    the end of its first step. lost_steps: how many steps that were done were lost by it. moved:
    workers that are on other nodes since. `detail`: a traceback, or the worker's last lines.
    `drill`: the fault that was rehearsed; empty where none was. `index`: which of the events is its
    first sign, `named_at` the diagnosis, `over_at` the first step after it (None: there is none).
    `memory_step`: the newest step that a worker held in memory, from which, or from one before it,
    the next generation went on; `over`: the break-down that the controller has told; `is_ignored`:
    nothing had to be done; `decided`: what was done, as in `fault.replacement.Measure`, one
    decision after the other.
    """

    generation: int
    culprit: Culprit
    failure: str
    cause: str
    wall: str
    step: int
    resumed_from: str | None = None
    noticed_s: float | None = None
    restart_s: float | None = None
    reload_s: float | None = None
    lost_steps: int | None = None
    detail: str = ""
    moved: tuple[MovedWorker, ...] = ()
    waited_s: float | None = None
    drill: str = ""
    memory_step: int | None = None
    over: Recovered | None = None
    is_ignored: bool = False
    decided: tuple[str, ...] = ()
    index: int = 0
    named_at: int | None = None
    over_at: int | None = None

    @property
    def place(self) -> str:
        """What failed, and its node where that is named."""
        return str(self.culprit)

    @property
    def total_s(self) -> float | None:
        """From the fault (or its notice) to the next generation's first step."""
        if self.over is not None:
            return self.over.first_step_s
        if self.restart_s is None or self.reload_s is None:
            return None
        return (self.noticed_s or 0.0) + self.restart_s + self.reload_s


def find_recoveries(
    events: Sequence[Event], rows: Sequence[MetricsRow], is_lost: bool = False
) -> list[Recovery]:
    """One entry for each generation that a failure ended, and for each controller that died, in
    order; the first failure of a generation is its cause. `is_lost`: the last controller is gone
    without a word."""
    reader = RecoveryReader(rows)
    for event in events:
        reader.take(event)
    if is_lost:
        reader.note_lost()
    return reader.recoveries


def num_failures(recoveries: Sequence[Recovery]) -> int:
    """How many failures a run has had: what ended nothing is none."""
    return sum(not recovery.is_ignored for recovery in recoveries)


class RecoveryReader:
    """Follows a run's events. The newest recovery is open from its failure until the next
    generation's first step, or until the controller ends."""

    def __init__(self, rows: Sequence[MetricsRow] = ()) -> None:
        self.recoveries: list[Recovery] = []
        self._rows = rows
        self._drill: DrillFired | None = None
        self._failure: WorkerDied | FailureDiagnosed | RunCreated | None = None
        self._restart: GenerationStarted | None = None
        self._waiting: Waiting | None = None
        self._index = -1
        self._life_at = 0  # the first event of the present controller
        self._last: Event | None = None
        self._is_led = False  # a controller has begun and has not told its end

    def take(self, event: Event) -> None:
        """The next one."""
        self._index += 1
        if isinstance(event, RunCreated) and self._index:
            self._begin_life(event)
        self._follow(event)
        if isinstance(event, RunCreated | RunEnded):
            self._is_led = isinstance(event, RunCreated)
        self._last = event

    def note_lost(self) -> None:
        """Nobody leads the run any more."""
        if self._last is not None and self._is_led:
            self._close()
            self._take_gone(self._last, self._index)

    def _begin_life(self, created: RunCreated) -> None:
        """Another controller leads the run. The one before that has left no word of its end died,
        whether the new one says how or not."""
        self._drill = None
        self._close()
        self._life_at = self._index
        if self._last is not None and self._is_led:
            self._take_gone(self._last, self._index)
            self._failure = created

    def _take_gone(self, last: Event, index: int) -> None:
        culprit = Culprit("controller", str(last.fence or ""))
        gone = Recovery(
            generation=last.generation,
            culprit=culprit,
            failure=GONE,
            cause="it left no word of its end",
            wall=last.wall,
            step=self._last_step(last.generation),
            index=index,
        )
        self.recoveries.append(gone)

    def _follow(self, event: Event) -> None:
        match event:
            case DrillFired() if _may_be_named(event):
                self._drill = event
            case WorkerDied() | FailureDiagnosed():
                self._take_failure(event)
            case Waiting():
                self._waiting = self._waiting or event
            case AgentsStarted():
                self._end_wait(event)
            case RecoveryDecided(action="ignore"):
                self._take_ignored()
            case RecoveryDecided() if event.is_of_fault and self._failure is not None:
                self._improve(decided=(*self._newest.decided, event.action))
            case PlanLaid() if self._failure is not None:
                self._improve(moved=event.moved)
            case GenerationStarted():
                self._end_wait(event)
                self._take_restart(event)
            case FirstStep():
                self._take_first_step(event)
            case Recovered():
                self._take_over(event)
            case RunEnded():
                self._drill = None
                self._close()
            case _:
                pass

    def _take_ignored(self) -> None:
        """Nothing has ended by it: the next failure of this generation is one of its own."""
        if self._failure is not None:
            self._improve(is_ignored=True)
            self._close()

    def _take_over(self, event: Recovered) -> None:
        """The first step is done: how long what took."""
        for number, known in enumerate(self.recoveries):
            if known.generation == event.failed and not known.is_ignored:
                self.recoveries[number] = replace(known, over=event, over_at=self._index)

    def _take_failure(self, event: WorkerDied | FailureDiagnosed) -> None:
        # What dies after the first one of its generation, dies of it: only its diagnosis is news.
        # A controller's death is told by the next one, and is no consequence of anything.
        if event.who.kind == "controller" and self._tells_of_gone(event):
            assert isinstance(event, FailureDiagnosed)
            self._improve(
                generation=event.generation,
                culprit=event.who,
                failure=event.failure,
                cause=event.cause,
                detail=event.detail.rstrip(),
                wall=event.wall,
                index=self._index,
                named_at=self._index,
            )
            self._failure = event
        elif self._is_first(event) or event.who.kind == "controller":
            self.recoveries.append(self._begin(event))
            self._failure, self._restart, self._drill = event, None, None
            if isinstance(event, FailureDiagnosed):
                self._improve(named_at=self._index, detail=event.detail.rstrip())
        elif isinstance(event, FailureDiagnosed) and self._newest.generation == event.generation:
            self._improve(
                culprit=event.who,
                failure=event.failure,
                cause=event.cause or self._newest.cause,
                detail=event.detail.rstrip(),
                named_at=self._index,
            )

    def _tells_of_gone(self, event: WorkerDied | FailureDiagnosed) -> bool:
        """Whether it names the controller whose end has been noticed so far."""
        if not self.recoveries or self._newest.failure != GONE:
            return False
        known = self._newest.culprit.name  # an earlier release's controllers have no numbers
        return self._newest.index == self._life_at and known in ("", event.who.name)

    def _is_first(self, event: WorkerDied | FailureDiagnosed) -> bool:
        """Whether nothing else has ended its generation before."""
        for known in self.recoveries:
            is_of_life = known.index >= self._life_at and known.culprit.kind != "controller"
            if is_of_life and not known.is_ignored and known.generation == event.generation:
                return False
        return True

    def _end_wait(self, event: AgentsStarted | GenerationStarted) -> None:
        if self._failure is not None and self._waiting is not None:
            waited_s = _seconds(self._waiting, event) + (self._newest.waited_s or 0.0)
            self._improve(waited_s=waited_s)
        self._waiting = None

    def _take_restart(self, event: GenerationStarted) -> None:
        failure = self._failure
        # A generation may fail before its first step: then the next one restarts for both, and the
        # newest recovery is the one that it ends.
        if failure is not None and event.generation > self._newest.generation:
            self._restart = event
            held = event.step if event.in_memory else None
            self._improve(
                restart_s=_seconds(failure, event), resumed_from=event.resume, memory_step=held
            )

    def _take_first_step(self, event: FirstStep) -> None:
        if self._restart is not None:
            lost = max(self._newest.step - event.step + 1, 0)
            reload_s = _seconds(self._restart, event)
            self._improve(reload_s=reload_s, lost_steps=lost, over_at=self._index)
            self._close()

    @property
    def _newest(self) -> Recovery:
        return self.recoveries[-1]

    def _improve(self, **known: object) -> None:
        self.recoveries[-1] = replace(self._newest, **known)  # type: ignore[arg-type]

    def _close(self) -> None:
        self._failure = self._restart = None

    def _begin(self, event: WorkerDied | FailureDiagnosed) -> Recovery:
        drill = self._drill
        rehearsed = drill is not None and drill.generation == event.generation
        return Recovery(
            generation=event.generation,
            culprit=event.who,
            failure=event.failure,
            cause=event.cause,
            wall=event.wall,
            step=self._last_step(event.generation),
            noticed_s=_seconds(drill, event) if drill is not None and rehearsed else None,
            drill=drill.action if drill is not None and rehearsed else "",
            index=self._index,
        )

    def _last_step(self, generation: int) -> int:
        """The last step that a generation had done; before its first, the highest of those before
        it; 0 for none."""
        own = [row["step"] for row in self._rows if row["generation"] == generation]
        earlier = [row["step"] for row in self._rows if row["generation"] < generation]
        return max(own or earlier, default=0)


def _may_be_named(drill: DrillFired) -> bool:
    """Whether a failure may be this drill's: what a run rides out is none's."""
    fault = known_fault(drill.action)
    return fault is None or fault.must_be_named


def _seconds(first: Event, last: Event) -> float:
    return max(last.monotonic_s - first.monotonic_s, 0.0)


def parts_of(over: Recovered) -> list[tuple[str, float]]:
    """What a recovery consisted of, in order: names and seconds."""
    moments = [
        ("noticed", over.noticed_s),
        ("decided", over.decided_s),
        ("left", over.left_s),
        ("prepared", over.begun_s),
        ("formed", over.formed_s),
        ("state", over.fetched_s),
        ("first step", over.first_step_s),
    ]
    parts, before = [], 0.0
    for name, at in moments:
        if at is not None:
            parts.append((name, max(at - before, 0.0)))
            before = max(at, before)
    return parts
