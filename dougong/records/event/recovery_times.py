"""How long each part of a recovery takes, from the fault to the next generation's first step.
Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dougong.records.event.faults import Recovered


@dataclass(frozen=True)
class Restarted:
    """The generation that has done its first step. `kept`: workers whose processes are those of
    before; `tiers`: bytes of its state by where they came from."""

    number: int
    first_step: int
    kept: Sequence[str]
    forked: Sequence[str]
    tiers: Mapping[str, int]


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

    def event(self, restarted: Restarted, now: float) -> Recovered:
        """That it is over, `now`: the first step is done."""
        return Recovered(
            generation=restarted.number,
            failed=self.failed,
            noticed_s=self._since(self.noticed_at),
            decided_s=self._since(self.decided_at),
            left_s=self._since(self.left_at or now),
            begun_s=self._since(self.begun_at or now),
            formed_s=None if self.formed_at is None else self._since(self.formed_at),
            fetched_s=None if self.fetched_at is None else self._since(self.fetched_at),
            first_step_s=self._since(now),
            kept=tuple(restarted.kept),
            forked=tuple(restarted.forked),
            step=restarted.first_step - 1,
            tiers=dict(restarted.tiers),
        )

    def _since(self, at: float) -> float:
        return round(max(at - self.fault_at, 0.0), 3)


@dataclass
class OpenRecoveries:
    """The recoveries that no step has ended yet: a failure while a generation forms opens a second
    one, and the first step ends both."""

    times: list[RecoveryTimes] = field(default_factory=list)

    def begin(
        self, failed: int, first_sign_at: float | None, drill_at: float | None, now: float
    ) -> None:
        """It has been decided what is done about a failure of the generation `failed`. `drill_at`:
        when the fault was, where a drill has told it."""
        noticed_at = now if first_sign_at is None else first_sign_at
        fault_at = noticed_at if drill_at is None else drill_at
        self.times.append(RecoveryTimes(failed, fault_at, noticed_at, now))

    def follow(self, failed: int, fault_at: float, noticed_at: float, now: float) -> None:
        """Begin with the recovery from the death of the controller before, which was leading the
        generation `failed`: its workers have ended with it."""
        self.begin(failed, noticed_at, fault_at, noticed_at)
        self.note_left(now)

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

    def end(self, restarted: Restarted, now: float) -> Sequence[Recovered]:
        """The first step is done: one event for each."""
        ended, self.times = self.times, []
        return [times.event(restarted, now) for times in ended]
