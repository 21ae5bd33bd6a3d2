"""Which faults come when: drawn from a seed, the same for everybody who draws with it. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dougong.job.drills.vocabulary import MOST_APART_S, NamedFault, has_worker, known_fault

QUIET_STEPS = 3
"""So many steps at both ends of a run are left alone: it has begun, and it can end."""


@dataclass(frozen=True)
class PlannedFault:
    """`at_step`: as that step begins; `after_s`: so long after the fault before it, which may not
    be over by then. One of the two. `worker`: empty where it is done to the controller."""

    fault: str
    worker: str
    at_step: int | None = None
    after_s: float | None = None
    for_s: float | None = None

    def __str__(self) -> str:
        lasts = "" if self.for_s is None else f" for {self.for_s:g} s"
        when = f"as step {self.at_step} begins"
        if self.after_s is not None:
            when = f"{self.after_s:.1f} s later"
        whom = f" {self.worker}" if self.worker else ""
        return f"{self.fault}{whom}{lasts} {when}"


def draw_schedule(
    key: str, faults: Sequence[NamedFault], workers: Sequence[str], steps: int, count: int = 1
) -> tuple[PlannedFault, ...]:
    """`count` rows of `faults`, each at a step of its own, in their order; a pair is two entries.
    `key`: seed and number, such as `7/3`."""
    chance = random.Random(key)
    moments = sorted(chance.sample(range(QUIET_STEPS, steps - QUIET_STEPS), count))
    planned: list[PlannedFault] = []
    for at_step in moments:
        planned += draw_fault(chance, chance.choice(faults), workers, at_step)
    return tuple(planned)


def draw_fault(
    chance: random.Random, fault: NamedFault, workers: Sequence[str], at_step: int
) -> Iterable[PlannedFault]:
    """One row, on workers that are drawn."""
    names = fault.parts or (fault.name,)
    for number, name in enumerate(names):
        part = known_fault(name)
        assert part is not None, "the table's pairs are of its own rows"
        worker, is_first = chance.choice(workers) if has_worker(name) else "", number == 0
        yield PlannedFault(
            name,
            worker,
            at_step=at_step if is_first else None,
            after_s=None if is_first else round(chance.uniform(0, MOST_APART_S), 1),
            for_s=_how_long(chance, part),
        )


def _how_long(chance: random.Random, fault: NamedFault) -> float | None:
    """Between a half and one and a half of the usual; None for what does not last, or for good."""
    if fault.lasts_s is None:
        return None
    return round(fault.lasts_s * chance.uniform(0.5, 1.5), 1)


def drawable(
    faults: Iterable[NamedFault], has_lab: bool, is_audited: bool = False
) -> tuple[NamedFault, ...]:
    """The rows that can be done here: without a lab, what the run's own processes do to themselves,
    and pairs of such; where every step is audited, a bit that is computed wrongly, too."""
    found = []
    for fault in faults:
        parts = [known_fault(name) for name in fault.parts] or [fault]
        if has_lab or all(_can_be_done(part, is_audited) for part in parts):
            found.append(fault)
    return tuple(found)


def _can_be_done(fault: NamedFault | None, is_audited: bool) -> bool:
    if fault is None:
        return False
    return not fault.refusal or (fault.is_silent and is_audited)
