"""What is suspected at present, and what a person is told of it. Pure: time is passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dougong.deadlines import Deadlines
from dougong.fault.culprit import Culprit
from dougong.fault.stillness import WAIT, StillTimes
from dougong.fault.suspicion import Sign, Suspicion, WorkerView, suspicions, waits_for

_TOLD = 10
"""So many suspicions of one culprit are told one by one, then each power of ten."""


@dataclass(frozen=True)
class Noticed:
    """What is new at one look: suspicions that have begun, culprits whose suspicion has ended with
    its seconds, and suspicions that have lasted too long."""

    begun: tuple[Suspicion, ...] = ()
    ended: tuple[tuple[Culprit, float], ...] = ()
    due: tuple[Suspicion, ...] = ()


@dataclass
class HealthWatch:
    """Outlives generations. `times`: what was learned of the workers."""

    times: StillTimes = field(default_factory=StillTimes)
    _present: dict[Culprit, Suspicion] = field(default_factory=dict)
    _counts: Counter[Culprit] = field(default_factory=Counter)
    _untold: set[Culprit] = field(default_factory=set)

    @property
    def present(self) -> tuple[Suspicion, ...]:
        """All suspicions that there are now."""
        return tuple(self._present.values())

    def begin_generation(self) -> None:
        """Other processes: what was suspected of the last ones is over."""
        self.times.begin_generation()
        self._present.clear()

    def forget(self, culprit: Culprit) -> None:
        """It has failed, and somebody else has acted on it: it does not go on."""
        self._present.pop(culprit, None)

    def look(
        self, views: Sequence[WorkerView], others: Sequence[Suspicion], deadlines: Deadlines
    ) -> Noticed:
        """Take in how all workers are now. `others`: what is suspected of agents, nodes and
        links."""
        for view in views:
            if view.is_seen:
                phase = WAIT if view.awaited else view.phase
                self.times.note(view.name, phase, view.signs.still_s)
        found = (*others, *suspicions(views, self.times, deadlines))
        if any(one.sign <= Sign.SILENT for one in found):
            self.times.spoil()
        return self._compare(found)

    def _compare(self, found: Sequence[Suspicion]) -> Noticed:
        before, self._present = self._present, {}
        for one in found:
            self._present.setdefault(one.culprit, one)  # the surest comes first
        begun = [one for culprit, one in self._present.items() if culprit not in before]
        ended = [one for culprit, one in before.items() if culprit not in self._present]
        told = tuple(one for one in begun if self._is_told(one.culprit))
        over = tuple((one.culprit, one.since_s) for one in ended if not self._was_untold(one))
        return Noticed(told, over, _due(tuple(self._present.values())))

    def _is_told(self, culprit: Culprit) -> bool:
        self._counts[culprit] += 1
        count = self._counts[culprit]
        if count <= _TOLD or str(count).strip("0") == "1":
            return True
        self._untold.add(culprit)
        return False

    def _was_untold(self, one: Suspicion) -> bool:
        was_untold = one.culprit in self._untold
        self._untold.discard(one.culprit)
        return was_untold

    def health(self, view: WorkerView) -> str:
        """How a worker is, in a few words."""
        one = self._present.get(Culprit("worker", view.name))
        if one is not None:
            return f"suspect: {one.why} for {one.since_s:.1f} s"
        if not view.is_seen:
            return "not seen: its agent is not heard"
        return waits_for(view) or "running"


def _due(present: Sequence[Suspicion]) -> tuple[Suspicion, ...]:
    """Those to be acted on. Of processes that are stopped or silent, each; of those that only stand
    still the one that has done so longest, since the others may do so because of it."""
    due = [one for one in present if one.is_due]
    sure = tuple(one for one in due if one.sign <= Sign.SILENT)
    if sure or not due:
        return sure
    return (min(due, key=lambda one: (one.sign, -one.since_s)),)
