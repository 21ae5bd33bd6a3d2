"""Steps that are computed a second time: both ledgers must be the same. Pure.

A generation that goes on from a checkpoint computes again what earlier ones had done after it. A
step's ledger digest covers the whole run up to there, so where the digests are equal, so are all
losses, gradients and weights; and the first step at which they part is where the bits did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dougong.records.events import StepsRecomputed
from dougong.records.metrics import MetricsRow

MOST_STEPS = 100_000
"""After a checkpoint, so many recorded steps are compared: more would fill the controller's memory,
and a difference shows in every step after it."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """What a generation has recorded of a step: the digest of its ledger."""

    generation: int
    digest: str


def recorded_after(
    rows: Iterable[MetricsRow], step: int, digest: str | None
) -> dict[int, RecordedStep]:
    """What has been recorded of the steps after a checkpoint, by step: the first record of each.

    `rows`: of metrics.jsonl, in the order written; `digest`: the checkpoint's ledger (None: it has
    none, so nothing can be compared, but at step 0, where every run begins alike). Records that
    lead on from another checkpoint of the same step, with another ledger, do not count.
    """
    if digest is None and step > 0:
        return {}
    found: dict[int, RecordedStep] = {}
    # By generation, and by the step that was computed last: does this history hold the checkpoint?
    leads_on: dict[int, bool] = {}
    newest: dict[int, bool] = {}
    for row in rows:
        number, generation, ledger = row["step"], row["generation"], row.get("ledger")
        if ledger is None or number < step:
            continue
        if number == step:
            leads_on[generation] = ledger == digest
        elif generation not in leads_on:
            # It began from what was newest when it began: the step before its first.
            leads_on[generation] = newest.get(number - 1, True)
        newest[number] = leads_on[generation]
        if number > step and leads_on[generation] and len(found) < MOST_STEPS:
            found.setdefault(number, RecordedStep(generation, ledger))
    return found


@dataclass
class Ledgers:
    """What has been recorded of the steps that a generation may compute again: in memory, since a
    recovery must not wait for metrics.jsonl to be read."""

    steps: dict[int, RecordedStep] = field(default_factory=dict)

    def take(self, generation: int, row: MetricsRow) -> None:
        """A step has been done: the first record of it counts, as long as its bits come again. With
        other bits (where nothing is promised) those after it belong to another history."""
        step, ledger = row["step"], row.get("ledger")
        known = self.steps.get(step)
        if ledger is None or (known is not None and known.digest == ledger):
            return
        if known is not None:
            self.steps = {earlier: kept for earlier, kept in self.steps.items() if earlier < step}
        self.steps[step] = RecordedStep(generation, ledger)
        if len(self.steps) > MOST_STEPS:
            del self.steps[min(self.steps)]

    def forget(self, step: int) -> None:
        """A checkpoint of this step is committed: none up to it is computed again, unless damage to
        it sends the run further back, and then the records themselves are read."""
        self.steps = {later: kept for later, kept in self.steps.items() if later > step}

    def after(self, step: int) -> dict[int, RecordedStep]:
        """What is recorded of the steps after this one."""
        return {later: kept for later, kept in self.steps.items() if later > step}


@dataclass
class Recomputation:
    """What one generation has computed again so far. `recorded`: what earlier ones say of the steps
    after its checkpoint; `difference`: the first step whose bits were others."""

    recorded: Mapping[int, RecordedStep] = field(default_factory=dict)
    difference: StepsRecomputed | None = None
    _stretch: StepsRecomputed | None = None

    def take(self, generation: int, row: MetricsRow) -> StepsRecomputed | None:
        """Compare a step that has just been done. The event, when its bits are others, or when it
        is the last one that was recorded."""
        step, ledger = row["step"], row.get("ledger")
        known = self.recorded.get(step)
        # The chain makes every step after a difference differ: the first says all.
        if known is None or ledger is None or self.difference is not None:
            return None
        stretch = _longer(self._stretch, generation, step, known)
        if known.digest != ledger:
            self._stretch = None
            parted = {"differs_from": known.generation, "then": known.digest, "now": ledger}
            self.difference = stretch.model_copy(update=parted)
            return self.difference
        self._stretch = stretch
        return self.end() if step + 1 not in self.recorded else None

    def end(self) -> StepsRecomputed | None:
        """The event of the steps that have not been told yet; None where there is none. Afterwards
        they are told."""
        told, self._stretch = self._stretch, None
        return told

    @property
    def untold(self) -> StepsRecomputed | None:
        """What `end` would tell."""
        return self._stretch


def _longer(
    stretch: StepsRecomputed | None, generation: int, step: int, known: RecordedStep
) -> StepsRecomputed:
    if stretch is None:
        earlier: tuple[int, ...] = (known.generation,)
        return StepsRecomputed(generation=generation, first=step, last=step, earlier=earlier)
    earlier = tuple(dict.fromkeys([*stretch.earlier, known.generation]))
    return stretch.model_copy(update={"last": step, "earlier": earlier})
