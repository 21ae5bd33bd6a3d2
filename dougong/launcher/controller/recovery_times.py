"""How long each part of a recovery takes, from the fault to the next generation's first step.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dougong.fault.diagnosis import Diagnosis
from dougong.launcher.controller.generation import Generation
from dougong.records.events import Recovered, StateRestored


@dataclass
class RecoveryTimes:
    """One recovery. `failed`: the generation that the fault has ended; all times are monotonic
    seconds, None where it has not come so far.

    Its parts may come more than once, when another failure meets it: then the last time counts.
    """

    failed: int
    fault_at: float
    noticed_at: float
    decided_at: float
    left_at: float | None = None
    begun_at: float | None = None
    formed_at: float | None = None
    fetched_at: float | None = None

    def event(
        self, generation: Generation, restored: StateRestored | None, now: float
    ) -> Recovered:
        """That it is over, `now`: the first step of `generation` is done."""
        kept = [name for name, status in generation.workers.items() if status.is_kept]
        return Recovered(
            generation=generation.number,
            failed=self.failed,
            noticed_s=self._since(self.noticed_at),
            decided_s=self._since(self.decided_at),
            left_s=self._since(self.left_at or now),
            begun_s=self._since(self.begun_at or now),
            formed_s=None if self.formed_at is None else self._since(self.formed_at),
            fetched_s=None if self.fetched_at is None else self._since(self.fetched_at),
            first_step_s=self._since(now),
            kept=tuple(kept),
            forked=tuple(name for name in generation.workers if name not in kept),
            step=generation.first_step - 1,
            tiers={} if restored is None else restored.tiers,
        )

    def _since(self, at: float) -> float:
        return round(max(at - self.fault_at, 0.0), 3)


@dataclass
class OpenRecoveries:
    """The recoveries that no step has ended yet: a failure while a generation forms opens a second
    one, and the first step ends both."""

    times: list[RecoveryTimes] = field(default_factory=list)

    def begin(self, generation: Generation, diagnosis: Diagnosis, now: float) -> None:
        """It has been decided what is done about this failure of the generation."""
        first_at = generation.first_failure_at
        noticed_at = now if first_at is None else first_at
        if diagnosis.latency_s is not None:
            noticed_at = min(noticed_at, now - diagnosis.latency_s)
        status = generation.workers.get(diagnosis.worker)
        drill_at = None if status is None else status.drill_at
        fault_at = noticed_at if drill_at is None else drill_at
        self.times.append(RecoveryTimes(generation.number, fault_at, noticed_at, now))

    def note_left(self, now: float) -> None:
        """Nobody is in the broken generation any more."""
        for times in self.times:
            times.left_at = now

    def note_begun(self, now: float) -> None:
        """The next generation's order is given."""
        for times in self.times:
            times.begun_at, times.formed_at, times.fetched_at = now, None, None

    def note_formed(self, now: float) -> None:
        """All processes of the next generation are there."""
        for times in self.times:
            times.formed_at = now

    def note_fetched(self, now: float) -> None:
        """All of them hold their parts of the state."""
        for times in self.times:
            times.fetched_at = now

    def end(
        self, generation: Generation, restored: StateRestored | None, now: float
    ) -> Sequence[Recovered]:
        """The first step is done: one event for each."""
        ended, self.times = self.times, []
        return [times.event(generation, restored, now) for times in ended]
