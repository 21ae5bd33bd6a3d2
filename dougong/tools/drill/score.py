"""What a run's events say of a fault, held against what the vocabulary expects. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dougong.deadlines import DEADLINES
from dougong.fault.culprit import Culprit
from dougong.job.drills.vocabulary import NamedFault, known_fault
from dougong.records.event.storage import StorageTroubled
from dougong.records.events import (
    CheckpointFailed,
    DrillFired,
    Event,
    FailureDiagnosed,
    FirstStep,
    RayChanged,
    Recovered,
    RunEnded,
    Suspected,
    SuspicionEnded,
)


@dataclass(frozen=True)
class Struck:
    """A fault that has come: `at`, seconds of the machine's monotonic clock. `worker`: to whom, or
    to what serves it; `host`: the machine, where it was done to one."""

    fault: str
    worker: str
    at: float
    host: str = ""


@dataclass(frozen=True)
class _Named:
    """What an event says has failed. `generation`: 0 where none ends by it."""

    kind: str
    who: Culprit
    at: float
    generation: int = 0
    latency_s: float | None = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoredFault:
    """One fault's line. Seconds are after the fault; None: it did not happen. `evidence`: what was
    seen, the cause first; `latency_s`: from the first sign to the name. `tier`: where most of the
    state came from."""

    fault: str
    worker: str
    kind_expected: str
    culprits_expected: tuple[str, ...]
    kind: str
    culprit: str
    is_right: bool
    evidence: tuple[str, ...] = ()
    latency_s: float | None = None
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
        whom = f" {self.worker}" if self.worker else ""
        return f"{self.fault}{whom}: {named}{recovered}{verdict}"

    def _expected(self) -> str:
        if not self.kind_expected:
            return "nothing"
        return f"{self.kind_expected} of {' or '.join(self.culprits_expected)}"


def judge(struck: Sequence[Struck], events: Sequence[Event]) -> tuple[ScoredFault, ...]:
    """One verdict for each fault, in their order. A diagnosis belongs to the newest fault before
    it that it fits, else to the newest one."""
    named = list(_named(struck, events))
    belongs = [_owner(one, struck) for one in named]
    verdicts = []
    for number, one in enumerate(struck):
        own = [said for said, owner in zip(named, belongs, strict=True) if owner == number]
        verdicts.append(_verdict(one, own, events, _is_hidden(number, struck, belongs)))
    return tuple(verdicts)


def drills_of(events: Sequence[Event]) -> tuple[Struck, ...]:
    """The faults that the run itself has announced."""
    found = [event for event in events if isinstance(event, DrillFired)]
    return tuple(Struck(event.action, event.worker, event.monotonic_s) for event in found)


def _named(struck: Sequence[Struck], events: Sequence[Event]) -> Iterator[_Named]:
    """What is told of storage and of Ray ends no generation, and blames nobody else: it counts for
    the faults that it fits."""
    for event in events:
        if isinstance(event, FailureDiagnosed):
            evidence = (event.cause, *event.evidence)
            yield _Named(
                event.failure,
                event.who,
                event.monotonic_s,
                event.generation,
                event.latency_s,
                evidence,
            )
            continue
        told = _told(event)
        if told is not None and any(_fits(one, told) for one in struck if one.at <= told.at):
            yield told


def _told(event: Event) -> _Named | None:
    match event:
        case StorageTroubled(what=what, reason=reason):
            who = Culprit("storage", what)
            return _Named("storage", who, event.monotonic_s, evidence=(reason,))
        case CheckpointFailed(reason=reason):
            who = Culprit("storage", "checkpoints")
            return _Named("storage", who, event.monotonic_s, evidence=(reason,))
        case RayChanged(is_lost=True, part="head" | "raylet" as part, text=text):
            return _Named("crash", Culprit(part, ""), event.monotonic_s, evidence=(text,))
        case _:
            return None


def _fits(one: Struck, named: _Named) -> bool:
    """Whether class and culprit are those that the vocabulary expects."""
    fault = known_fault(one.fault)
    assert fault is not None, "faults come from the table"
    is_kind = named.kind in {fault.kind, fault.or_kind or fault.kind}
    is_one_of = is_kind and named.who.kind in fault.culprits
    return is_one_of and _is_of(named.who, one)


def _is_of(culprit: Culprit, one: Struck) -> bool:
    """Whether the culprit is the worker, what serves it (an agent has its island's name), or the
    machine."""
    if culprit.kind == "worker":
        return culprit.name == one.worker
    if culprit.kind in ("agent", "fork_server"):
        return culprit.name.startswith(one.worker.partition("/")[0])
    if culprit.kind in ("node", "link"):
        return one.host in culprit.name.split(" - ") or not one.host
    return True


def _owner(named: _Named, struck: Sequence[Struck]) -> int | None:
    before = [number for number, one in enumerate(struck) if one.at <= named.at]
    for number in reversed(before):
        if _fits(struck[number], named):
            return number
    return before[-1] if before else None


def _is_hidden(number: int, struck: Sequence[Struck], owners: Sequence[int | None]) -> bool:
    """Whether another fault so close that both are one failure has been named for both: who is
    stopped while he is being replaced is never missed."""
    close = [number - 1, number + 1]
    return number not in owners and any(other in owners for other in close if other >= 0)


def _verdict(
    one: Struck, own: Sequence[_Named], events: Sequence[Event], is_hidden: bool
) -> ScoredFault:
    fault = known_fault(one.fault)
    assert fault is not None, "faults come from the table"
    first = own[0] if own else None
    if first is None:
        is_right = is_hidden or not fault.must_be_named or _went_on(one, fault, events)
    else:
        is_right = all(_fits(one, named) for named in own)
    recovered = None if first is None else _recovery(first, events)
    return ScoredFault(
        fault=fault.name,
        worker=one.worker,
        kind_expected=fault.kind,
        culprits_expected=fault.culprits,
        kind="" if first is None else first.kind,
        culprit="" if first is None else str(first.who),
        is_right=is_right,
        evidence=() if first is None else first.evidence,
        latency_s=None if first is None else first.latency_s,
        suspected_s=_suspected(one, fault, first, events),
        acted_s=None if first is None else _since(one, first.at),
        recovered_s=_recovered_s(one, first, events),
        tier="" if recovered is None else _tier(recovered),
    )


def _went_on(one: Struck, fault: NamedFault, events: Sequence[Event]) -> bool:
    """Whether it was suspected, and was over before anything was done: it was short, or the run had
    finished by then."""
    if fault.kind != "hang":
        return False
    until = one.at + DEADLINES.agent_silence_s
    finished = any(
        isinstance(event, RunEnded) and event.kind == "finished" and event.monotonic_s < until
        for event in events
    )
    words = (Suspected, SuspicionEnded) if finished else (SuspicionEnded,)
    told = (event for event in events if isinstance(event, words) and event.monotonic_s >= one.at)
    of_it = (event.culprit for event in told if event.culprit.kind in fault.culprits)
    return any(_is_of(culprit, one) for culprit in of_it)


def _suspected(
    one: Struck, fault: NamedFault, named: _Named | None, events: Sequence[Event]
) -> float | None:
    """When somebody was first suspected who may be named; else the first sign, as the diagnosis
    tells it."""
    for event in events:
        may_be = isinstance(event, Suspected) and event.culprit.kind in fault.culprits
        if may_be and event.monotonic_s >= one.at:
            return _since(one, event.monotonic_s)
    if named is None:
        return None
    return round(max(0.0, _since(one, named.at) - (named.latency_s or 0.0)), 3)


def _since(one: Struck, at: float) -> float:
    return round(at - one.at, 3)


def _recovery(named: _Named, events: Sequence[Event]) -> Recovered | None:
    for event in events:
        if isinstance(event, Recovered) and event.failed >= named.generation > 0:
            return event
    return None


def _recovered_s(one: Struck, named: _Named | None, events: Sequence[Event]) -> float | None:
    if named is None or not named.generation:
        return None
    for event in events:
        if isinstance(event, FirstStep) and event.generation > named.generation:
            return _since(one, event.monotonic_s)
    return None


def _tier(recovered: Recovered) -> str:
    """Where most bytes came from."""
    return max(recovered.tiers, key=lambda tier: recovered.tiers[tier], default="")


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f" after {seconds:.2f} s"
