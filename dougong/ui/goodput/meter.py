"""Goodput: the part of a run's time in which it computed steps that count. Pure.

The time is that since the run began, over all its controllers and resumes, less what lay between
its end and a resume where somebody had stopped it, or it was finished. All of it goes to one of
these, so that they sum to the whole:

    training     steps that count, by worker 0's own clock
    again        steps that were lost, and those under way when a fault came
    validation   the loss on held-out data
    saving       checkpoints that held up the workers, and the last one at the end
    between      what lies between two steps besides
    start        from a controller's beginning to its first step, less that step
    noticing     from the first sign of a fault to the decision what is done
    leaving      workers leave the broken generation, or are ended; or all rest, that others join
    preparing    agents are started anew, a checkpoint is sought
    restoring    the next generation forms, and takes its state; until its first step begins
    waiting      for nodes, or for devices that others hold
    down         nobody led the run: its controller had died, or the run had failed

A slow step is a step: goodput says what faults cost, not how fast the steps are. One definition
for status, screen and report.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from dougong.records.event.base import read_wall
from dougong.records.events import (
    AgentsStarted,
    Event,
    FailureDiagnosed,
    GenerationStarted,
    PhaseStarted,
    RecoveryDecided,
    RunCreated,
    RunEnded,
    StateChanged,
    StateRestored,
    Waiting,
)
from dougong.records.metrics import MetricsRow
from dougong.records.status import Goodput
from dougong.ui.goodput.course import Course, Part

PARTS: tuple[Part, ...] = get_args(Part)
WORDS: dict[Part, str] = {
    "training": "training",
    "again": "lost steps",
    "validation": "validation",
    "saving": "saving",
    "between": "between steps",
    "start": "start-up",
    "noticing": "noticing faults",
    "leaving": "leaving broken generations",
    "preparing": "preparing the next ones",
    "restoring": "forming them and their state",
    "waiting": "waiting for nodes",
    "down": "down, led by nobody",
}
"""The parts, for people."""

_MOST_STEPS = 20_000
"""A run that goes back by more steps has the others counted as training."""
_USUAL_STEPS = 20
_PATIENCE = 3.0
"""A step under way is training for so many times the longest of the last ones."""


@dataclass(frozen=True)
class _Step:
    """A step that counts so far. `begun_s`: when it began, in seconds of the run's time."""

    number: int
    seconds: float
    begun_s: float


class GoodputMeter:
    """Follows a run's events and rows, in the order in which they were written. `course`: where its
    stretches are drawn, too."""

    def __init__(self, course: Course | None = None) -> None:
        self._course = course
        self._parts: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._part: Part | None = None  # what goes on; None: nobody leads the run
        self._at = 0.0  # until then the time is given to its parts, by the controller's clock
        self._clock_s = float("inf")  # of the last item
        self._wall = ""
        self._is_over = False  # the run's end was meant
        self._recovers = False
        self._rests = False  # it ends after its step, so that others may join
        self._latency_s = 0.0
        self._generation = 0
        self._lost_s = 0.0  # since the last row of the generation that has just failed
        self._before_wait: Part = "start"
        self._steps: deque[_Step] = deque(maxlen=_MOST_STEPS)
        self._usual: deque[float] = deque(maxlen=_USUAL_STEPS)
        self._has_begun = False  # rows without any event are of a history that is lost
        self._fence = 0  # whose items they are
        self._highest = 0  # the highest step that was ever done
        self._num_lost = self._num_again = 0

    @property
    def run_s(self) -> float:
        """The run's time up to the last item."""
        ahead = 0.0 if self._part is None else max(self._clock_s - self._at, 0.0)
        return sum(self._parts.values()) + ahead

    def so_far(self, now: float | None = None) -> Goodput:
        """Where the time went. `now`: by the controller's clock; None: up to the last item."""
        parts, under_way = dict(self._parts), 0.0
        if self._part is not None:
            end = self._clock_s if now is None else now
            ahead = max(end - self._at, 0.0)
            usual_s = _PATIENCE * max(self._usual, default=0.0)
            under_way = min(ahead, usual_s) if self._part == "between" else 0.0
            parts["training"] += under_way
            parts["noticing" if self._part == "between" else self._part] += ahead - under_way
        told: dict[str, float] = {part: round(seconds, 6) for part, seconds in parts.items()}
        return Goodput(
            parts=told,
            under_way_s=round(under_way, 6),
            steps_lost=self._num_lost,
            steps_again=self._num_again,
        )

    def step(self, row: MetricsRow) -> None:
        """A step is done."""
        if not self._has_begun:
            return
        at = self._time_of(row)
        self._clock_s, self._wall = at, row.get("wall") or self._wall
        if self._part is None:
            return
        self._rewind(row["step"] - 1)
        self._num_again += row["step"] <= self._highest
        self._highest = max(row["step"], self._highest)
        if row.get("generation", 1) < self._generation:
            self._take_late(row)
        else:
            self._take_step(row, at, self._part)

    def _take_step(self, row: MetricsRow, at: float, part: Part) -> None:
        length = max(at - self._at, 0.0)
        step_s = min(_seconds(row, "step_s"), length)
        validate_s = min(_seconds(row, "validate_s"), length - step_s)
        before = length - step_s - validate_s
        if part == "between":
            save_s = min(_seconds(row, "save_s"), before)
            self._add("saving", save_s)
            before -= save_s
        self._usual.append(length if part == "between" else step_s)
        self._add(part, before)
        self._steps.append(_Step(row["step"], step_s, sum(self._parts.values())))
        self._add("training", step_s)
        self._add("validation", validate_s)
        self._part, self._recovers, self._at = "between", False, at

    def note(self, event: Event) -> None:
        """Something happened."""
        self._has_begun = True
        is_anothers = event.fence != self._fence or event.monotonic_s < self._clock_s
        if isinstance(event, RunCreated) or is_anothers:
            self._begin_life(event)
        self._clock_s, self._wall = event.monotonic_s, event.wall or self._wall
        if self._part is not None:
            self._follow(event)

    def _take_late(self, row: MetricsRow) -> None:
        """The row of a step that was done before a fault, and told after it."""
        step_s = min(_seconds(row, "step_s"), self._lost_s)
        self._lost_s -= step_s
        self._parts["again"] -= step_s
        self._parts["training"] += step_s
        self._steps.append(_Step(row["step"], step_s, sum(self._parts.values())))

    def _follow(self, event: Event) -> None:
        match event:
            case FailureDiagnosed():
                self._latency_s = event.latency_s or 0.0
            case RecoveryDecided() if event.breaks:
                self._break(event.monotonic_s)
            case Waiting() if self._part not in ("between", "waiting"):
                self._before_wait = self._part or "start"
                self._switch("waiting", event.monotonic_s)
            case AgentsStarted() if self._part == "waiting":
                self._switch(self._before_wait, event.monotonic_s)
            case StateChanged(state="GROWING"):
                self._rests = True
            case PhaseStarted() if self._part == "leaving":
                self._switch("preparing", event.monotonic_s)
            case GenerationStarted(step=step):
                goes_on = self._recovers or self._rests
                self._switch("restoring" if goes_on else "start", event.monotonic_s)
                self._generation, self._rests = event.generation, False
                self._rewind(step)
            case StateRestored(step=step):
                self._rewind(step)
            case RunEnded():
                self._end(event)
            case _:
                pass

    def _begin_life(self, event: Event) -> None:
        """Another controller leads the run. Its clock may be that of another machine."""
        if self._part is not None:
            self._add("again" if self._part == "between" else self._part, self._clock_s - self._at)
        if self._wall and event.wall and not self._is_over:
            gone = read_wall(event.wall) - read_wall(self._wall)
            self._add("down", max(gone.total_seconds(), 0.0))
        self._part, self._at, self._fence = "start", event.monotonic_s, event.fence
        self._is_over = self._recovers = False

    def _break(self, at: float) -> None:
        """A generation is broken. What was computed since its last step is lost."""
        ahead = max(at - self._at, 0.0)
        if self._part == "between":
            noticing = min(self._latency_s, ahead)
            self._lost_s = ahead - noticing
            self._add("again", self._lost_s)
            self._add("noticing", noticing)
        else:
            self._add(self._part or "start", ahead)
        self._part, self._at, self._latency_s = "leaving", at, 0.0
        self._recovers, self._rests = True, False

    def _switch(self, part: Part, at: float) -> None:
        """Up to now it was the part so far."""
        now = self._part
        if now == "between":  # a generation that rests loses nothing
            now = "leaving" if self._rests else "again"
        self._add(now or part, max(at - self._at, 0.0))
        self._part, self._at = part, at

    def _end(self, event: RunEnded) -> None:
        self._is_over = event.kind != "failed"
        last: Part = "saving" if self._is_over else "again"
        if self._part is not None and self._part != "between":
            last = self._part
        self._add(last, event.monotonic_s - self._at)
        self._part = None

    def _rewind(self, step: int) -> None:
        """Later steps are lost."""
        begun_s = None
        while self._steps and self._steps[-1].number > step:
            lost = self._steps.pop()
            self._parts["training"] -= lost.seconds
            self._parts["again"] += lost.seconds
            self._num_lost += 1
            begun_s = lost.begun_s
        if begun_s is not None and self._course is not None:
            self._course.repaint(begun_s)

    def _add(self, part: Part, seconds: float) -> None:
        self._parts[part] += max(seconds, 0.0)
        if self._course is not None:
            self._course.add(part, seconds)

    def _time_of(self, row: MetricsRow) -> float:
        """By the controller's clock; of a row of an earlier release, by the wall clock since the
        last item."""
        known = row.get("monotonic_s")
        if known:
            return max(float(known), self._at)
        if not (self._wall and row.get("wall")):
            return self._clock_s
        passed = read_wall(row["wall"]) - read_wall(self._wall)
        return self._clock_s + max(passed.total_seconds(), 0.0)


def _seconds(row: MetricsRow, key: str) -> float:
    """0 where the row does not say it."""
    return row.get(key) or 0.0


def in_order(events: Sequence[Event], rows: Iterable[MetricsRow]) -> Iterator[Event | MetricsRow]:
    """Both together, as they were written: each of the two is in order."""
    left = deque(events)
    for row in rows:
        while left and _is_before(left[0], row):
            yield left.popleft()
        yield row
    yield from left


def _is_before(event: Event, row: MetricsRow) -> bool:
    fence, generation = int(row.get("fence", 0)), int(row.get("generation", 1))
    if event.fence != fence:
        return event.fence < fence
    if "monotonic_s" in row:
        return event.monotonic_s <= float(row["monotonic_s"])
    if event.generation != generation:
        return event.generation < generation
    return event.wall <= str(row.get("wall", ""))


def follow(meter: GoodputMeter, events: Sequence[Event], rows: Iterable[MetricsRow]) -> list[float]:
    """Have the meter follow a whole record. Returns the run's time at each event."""
    moments = []
    for item in in_order(events, rows):
        if isinstance(item, dict):
            meter.step(item)
        else:
            meter.note(item)
            moments.append(meter.run_s)
    return moments


def course_of(
    events: Sequence[Event], rows: Iterable[MetricsRow]
) -> tuple[Goodput, Course, list[float]]:
    """Of a whole record, up to its last line: goodput, course, and the run's time at each event."""
    course = Course()
    meter = GoodputMeter(course)
    moments = follow(meter, events, rows)
    return meter.so_far(), course, moments
