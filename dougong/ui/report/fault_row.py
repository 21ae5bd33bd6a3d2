"""A fault as the report tells it, and a run's events as its rows are read from them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from dougong.fault.culprit import Culprit
from dougong.job.drills.vocabulary import known_fault
from dougong.records.event.base import read_wall
from dougong.records.events import DrillFired, Event, GenerationStarted, RunCreated, RunEnded
from dougong.ui.formatting import worker_list
from dougong.ui.history import History

Look = Literal["fault", "mild", "open"]
"""A generation ended by it; none did; it is not over."""
_ENDED = ("finished", "stopped", "failed", "lost")


@dataclass(frozen=True)
class FaultRow:
    """One fault. `index`: the event that has told it first; `run_s`: when it was, in the run's
    time; `text`: what was seen of it; `decided`: what was done, in words. Seconds are None where
    nobody has seen that, or it did not happen. `steps_lost`: None where no step could be lost;
    `tier`: where the next generation's state came from; `others`: who was suspected at the same
    time."""

    index: int
    run_s: float
    wall: str
    what: str
    who: str
    outcome: str = ""
    decided: str = ""
    look: Look = "mild"
    text: str = ""
    drill: str = ""
    suspected_s: float | None = None
    acted_s: float | None = None
    recovered_s: float | None = None
    steps_lost: int | None = None
    tier: str = ""
    others: tuple[str, ...] = ()

    @property
    def also(self) -> str:
        """The others who were suspected, in words; empty for none."""
        return f"also suspected: {worker_list(self.others)}" if self.others else ""


class Story:
    """A run's events with the run's time at each. `told`: indices of drills and suspicions that
    are a part of another fault's row."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.events = history.events
        self.moments = history.moments
        self.told: set[int] = set()
        self.has_ended = history.state in _ENDED

    @property
    def until_now(self) -> str:
        """For how long that lasts which nothing has ended."""
        return "until the end" if self.has_ended else "not over yet"

    def row(self, index: int, what: str, who: str) -> FaultRow:
        """A fault that this event tells first."""
        return FaultRow(index, self.moments[index], self.events[index].wall, what, who)

    def wall_at(self, index: int, run_s: float) -> str:
        """The time of day at this moment of the run's time, by that of an event; empty where that
        has none."""
        wall = self.events[index].wall
        if not wall:
            return ""
        earlier = timedelta(seconds=self.moments[index] - run_s)
        return (read_wall(wall) - earlier).isoformat(timespec="milliseconds")

    def after(self, index: int) -> Iterator[tuple[int, Event]]:
        """The later events, in order, with their indices."""
        for later in range(index + 1, len(self.events)):
            yield later, self.events[later]

    def before(self, index: int) -> Iterator[tuple[int, Event]]:
        """The earlier ones, the last first."""
        for earlier in range(index - 1, -1, -1):
            yield earlier, self.events[earlier]

    def drill_on(self, culprit: Culprit, index: int) -> str:
        """The newest drill in this generation that was done to it, which is told by that; empty for
        none. A controller's is told by the next one, before that one's first generation."""
        created = 0
        for earlier, event in self.before(index):
            created += isinstance(event, RunCreated)
            if isinstance(event, (GenerationStarted, RunEnded)) or created > 1:
                return ""
            if isinstance(event, DrillFired) and _concerns(event, culprit):
                self.told.add(earlier)
                return event.action
        return ""


def is_same(one: Culprit, other: Culprit) -> bool:
    """Whether both are the same thing, wherever it was."""
    return (one.kind, one.name) == (other.kind, other.name)


def _concerns(drill: DrillFired, culprit: Culprit) -> bool:
    """Whether a drill was done to it: a worker, or its agent, or the controller."""
    fault = known_fault(drill.action)
    if culprit.kind == "controller":
        return fault is not None and fault.target == "controller"
    if culprit.kind == "worker":
        return culprit.name == drill.worker
    island = drill.worker.partition("/")[0]
    return culprit.name == island or culprit.name.startswith(f"{island}-")
