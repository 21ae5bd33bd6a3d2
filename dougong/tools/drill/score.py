"""What a run's events say of a fault, held against what the vocabulary expects. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dougong.fault.culprit import Culprit
from dougong.job.drills.vocabulary import NamedFault, known_fault
from dougong.records.events import (
    DrillFired,
    Event,
    FailureDiagnosed,
    FirstStep,
    Recovered,
    Suspected,
)


@dataclass(frozen=True)
class Struck:
    """A fault that has come: `at`, seconds of the machine's monotonic clock. `worker`: to whom, or
    to what serves it; `others`: who else may be named, where faults come close together."""

    fault: str
    worker: str
    at: float


@dataclass(frozen=True)
class ScoredFault:
    """One fault's line. Seconds are after the fault; None: it did not happen. `tier`: where most of
    the state came from."""

    fault: str
    worker: str
    kind_expected: str
    culprits_expected: tuple[str, ...]
    kind: str
    culprit: str
    is_right: bool
    suspected_s: float | None = None
    acted_s: float | None = None
    recovered_s: float | None = None
    tier: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a line of JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.kind:
            named = "nothing named"
        else:
            named = f"{self.kind} of {self.culprit}{_after(self.acted_s)}"
        recovered = ""
        if self.recovered_s is not None:
            tier = f" ({self.tier})" if self.tier else ""
            recovered = f", training again{_after(self.recovered_s)}{tier}"
        verdict = "" if self.is_right else f"; WRONG, expected {self._expected()}"
        return f"{self.fault} {self.worker}: {named}{recovered}{verdict}"

    def _expected(self) -> str:
        if not self.kind_expected:
            return "nothing"
        return f"{self.kind_expected} of {' or '.join(self.culprits_expected)}"


def judge(struck: Sequence[Struck], events: Sequence[Event]) -> tuple[ScoredFault, ...]:
    """One verdict for each fault, in their order. A diagnosis belongs to the newest fault before
    it that it fits, else to the newest one."""
    diagnoses = [event for event in events if isinstance(event, FailureDiagnosed)]
    belongs = [_owner(diagnosis, struck) for diagnosis in diagnoses]
    verdicts = []
    for number, one in enumerate(struck):
        own = [event for event, owner in zip(diagnoses, belongs, strict=True) if owner == number]
        verdicts.append(_verdict(one, own, events, _is_hidden(number, struck, belongs)))
    return tuple(verdicts)


def drills_of(events: Sequence[Event]) -> tuple[Struck, ...]:
    """The faults that the run itself has announced."""
    found = [event for event in events if isinstance(event, DrillFired)]
    return tuple(Struck(event.action, event.worker, event.monotonic_s) for event in found)


def fits(fault: NamedFault, worker: str, diagnosis: FailureDiagnosed) -> bool:
    """Whether class and culprit are those that the vocabulary expects."""
    is_kind = diagnosis.failure in {fault.kind, fault.or_kind or fault.kind}
    if not is_kind or diagnosis.who.kind not in fault.culprits:
        return False
    return _is_of(diagnosis.who, worker)


def _is_of(culprit: Culprit, worker: str) -> bool:
    """Whether the culprit is the worker, or what serves it: an agent has its island's name."""
    if culprit.kind == "worker":
        return culprit.name == worker
    if culprit.kind in ("agent", "fork_server"):
        return culprit.name.startswith(worker.partition("/")[0])
    return True


def _owner(diagnosis: FailureDiagnosed, struck: Sequence[Struck]) -> int | None:
    before = [number for number, one in enumerate(struck) if one.at <= diagnosis.monotonic_s]
    for number in reversed(before):
        fault = known_fault(struck[number].fault)
        if fault is not None and fits(fault, struck[number].worker, diagnosis):
            return number
    return before[-1] if before else None


def _is_hidden(number: int, struck: Sequence[Struck], owners: Sequence[int | None]) -> bool:
    """Whether another fault so close that both are one failure has been named for both: who is
    stopped while he is being replaced is never missed."""
    close = [number - 1, number + 1]
    return number not in owners and any(other in owners for other in close if other >= 0)


def _verdict(
    one: Struck, own: Sequence[FailureDiagnosed], events: Sequence[Event], is_hidden: bool
) -> ScoredFault:
    fault = known_fault(one.fault)
    assert fault is not None, "faults come from the table"
    first = own[0] if own else None
    if first is None:
        is_right = is_hidden or not fault.must_be_named
    else:
        is_right = all(fits(fault, one.worker, diagnosis) for diagnosis in own)
    recovered = None if first is None else _recovery(first, events)
    return ScoredFault(
        fault=fault.name,
        worker=one.worker,
        kind_expected=fault.kind,
        culprits_expected=fault.culprits,
        kind="" if first is None else first.failure,
        culprit="" if first is None else str(first.who),
        is_right=is_right,
        suspected_s=_suspected(one, fault, first, events),
        acted_s=None if first is None else _since(one, first),
        recovered_s=_recovered_s(one, first, events),
        tier="" if recovered is None else _tier(recovered),
    )


def _suspected(
    one: Struck, fault: NamedFault, diagnosis: FailureDiagnosed | None, events: Sequence[Event]
) -> float | None:
    """When somebody was first suspected who may be named; else the first sign, as the diagnosis
    tells it."""
    for event in events:
        may_be = isinstance(event, Suspected) and event.culprit.kind in fault.culprits
        if may_be and event.monotonic_s >= one.at:
            return _since(one, event)
    if diagnosis is None:
        return None
    return round(max(0.0, _since(one, diagnosis) - (diagnosis.latency_s or 0.0)), 3)


def _since(one: Struck, event: Event) -> float:
    return round(event.monotonic_s - one.at, 3)


def _recovery(diagnosis: FailureDiagnosed, events: Sequence[Event]) -> Recovered | None:
    for event in events:
        if isinstance(event, Recovered) and event.failed >= diagnosis.generation:
            return event
    return None


def _recovered_s(
    one: Struck, diagnosis: FailureDiagnosed | None, events: Sequence[Event]
) -> float | None:
    if diagnosis is None:
        return None
    for event in events:
        if isinstance(event, FirstStep) and event.generation > diagnosis.generation:
            return _since(one, event)
    return None


def _tier(recovered: Recovered) -> str:
    """Where most bytes came from."""
    return max(recovered.tiers, key=lambda tier: recovered.tiers[tier], default="")


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f" after {seconds:.2f} s"
