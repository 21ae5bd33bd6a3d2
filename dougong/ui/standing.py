"""Where a run stands, for `dougong status`: the status, and what its last rows and events say of
loss, speed, checkpoint and the time since. Pure: the time of day is passed in."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median
from typing import Any

from dougong.deadlines import DEADLINES
from dougong.records.event.base import read_wall
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    CheckpointsSetAside,
    Event,
    FirstStep,
    GenerationStarted,
    Recovered,
    RecoveryDecided,
)
from dougong.records.finished import vain_resume
from dougong.records.metrics import MetricsRow
from dougong.records.status import RunStatus
from dougong.ui.event_words import link_words
from dougong.ui.formatting import count, duration, loss, plural
from dougong.ui.health import goodput_words
from dougong.ui.recoveries import Recovery, find_recoveries, parts_of
from dougong.ui.save_words import save_words
from dougong.ui.sentences import describe, failure_words

_LOOKED_AT = 20
"""Rows whose pace is taken for the present one."""
_USUAL_TIMES = 3
"""A pause of so many times the longest of the last ones is worth a word."""


@dataclass(frozen=True)
class LastCheckpoint:
    """The newest one that is there and that no later look has refused. `age_s`: since it was
    committed."""

    step: int
    name: str
    age_s: float


@dataclass(frozen=True)
class NewestFault:
    """The newest failure that was named. `age_s`: since then; `decided`: what was done about it, in
    words, and why; empty while nothing is; `outcome`: what became of it, empty while nothing
    has."""

    who: str
    what: str
    generation: int
    age_s: float
    decided: str = ""
    outcome: str = ""

    def __str__(self) -> str:
        text = f"last fault: {duration(self.age_s)} ago, {self.who}: {self.what}"
        return "; ".join(words for words in (text, self.decided, self.outcome) if words)


@dataclass(frozen=True)
class Standing:
    """Where a run stands. What is not known is None; seconds.

    `since_step_s`: since the last step's row was written; `usual_step_s`: from row to row of late;
    `quiet`: the pause is longer than usual. `has_lost_all`: checkpoints were committed, and none of
    them counts any more. `fault`: the newest; `recovered`: the break-down of the recovery from it,
    where it is over. `links`: what those between islands gave last, in words; `saves`: what
    saves cost of late. `remark`: what else
    has to be known, empty for nothing. `note`: what of the record is damaged, and told without it;
    empty for nothing. `next_command`: what to type next.
    """

    status: RunStatus
    loss: float | None
    tokens_per_s: float | None
    eta_s: float | None
    since_step_s: float | None
    usual_step_s: float | None
    quiet: bool
    checkpoint: LastCheckpoint | None
    has_lost_all: bool
    next_command: str
    remark: str = ""
    note: str = ""
    recovered: Recovered | None = None
    fault: NewestFault | None = None
    links: str = ""
    saves: str = ""

    def to_json(self) -> dict[str, Any]:
        """The status as it is in status.json, and beside it what else is known."""
        newest, goodput = self.checkpoint, self.status.goodput
        return {
            **self.status.to_json(),
            "loss": self.loss,
            "tokens_per_s": self.tokens_per_s,
            "eta_s": self.eta_s,
            "since_step_s": self.since_step_s,
            "usual_step_s": self.usual_step_s,
            "quiet": self.quiet,
            "checkpoint": None if newest is None else asdict(newest),
            "goodput": None if goodput is None else goodput.to_json(),
            "last_fault": None if self.fault is None else asdict(self.fault),
            "recovered": None if self.recovered is None else dict(parts_of(self.recovered)),
            "links": self.links,
            "saves": self.saves,
            "remark": self.remark,
            "note": self.note,
            "next": self.next_command,
        }

    def lines(self) -> list[str]:
        """For people, without the workers: the state, the numbers, what is unusual."""
        status = self.status
        state = status.state.lower()
        if status.phase and not status.has_ended:
            state = f"{state} ({status.phase}, {duration(status.phase_s)})"
        head = f"{status.job}: {state}, step {status.step} of {status.steps}"
        lines = [f"{head}, generation {status.generation}"]
        numbers = [*self._step_words(), *self._checkpoint_words()]
        if numbers:
            lines.append(", ".join(numbers))
        if self.quiet and self.since_step_s is not None and self.usual_step_s is not None:
            since, usual = duration(self.since_step_s), duration(self.usual_step_s)
            lines.append(f"no step for {since}, usual {usual}")
        lines += [words for words in (self.links, self.saves) if words]
        return lines + self._fault_words() + self._remarks()

    def _fault_words(self) -> list[str]:
        """What faults have cost so far, and the newest of them."""
        goodput = self.status.goodput
        words = "" if goodput is None else goodput_words(goodput)
        lines = [f"goodput {words}"] if words else []
        if self.fault is not None:
            lines.append(str(self.fault))
        if self.recovered is not None:
            lines.append(_words_on(self.recovered))
        return lines

    def _remarks(self) -> list[str]:
        """What it waits for, that it is not saved, and what is unusual."""
        status = self.status
        waits = status.waiting and not status.has_ended
        awaited = f"waiting: {status.waiting}" if waits else ""
        ray = "" if status.has_ended else status.ray
        suspects = () if status.has_ended else status.suspects
        told = [f"suspect: {text}" for text in suspects]
        told += () if status.has_ended else status.reserve
        told += [f"in quarantine: {text}" for text in status.quarantine]
        others = (awaited, status.storage, status.unsaved, ray, self.remark)
        return [*told, *(text for text in others if text)]

    def _step_words(self) -> list[str]:
        words = []
        if self.loss is not None:
            words.append(f"loss {loss(self.loss)}")
        if self.tokens_per_s is not None:
            words.append(f"{count(self.tokens_per_s)} tokens/s")
        if self.eta_s is not None:
            words.append(f"eta {duration(self.eta_s)}")
        if self.since_step_s is not None:
            words.append(f"last step {duration(self.since_step_s)} ago")
        return words

    def _checkpoint_words(self) -> list[str]:
        if self.has_lost_all:
            return ["no checkpoint is left"]
        if self.checkpoint is None:
            return ["no checkpoint yet"] if self.loss is not None else []
        newest = self.checkpoint
        return [f"checkpoint of step {newest.step}, {duration(newest.age_s)} ago"]


def find_standing(
    status: RunStatus,
    rows: Sequence[MetricsRow],
    events: Sequence[Event],
    present: Collection[str],
    next_command: str,
    now: datetime,
) -> Standing:
    """`rows`: the last ones written, in order; `events`: all of the run's; `present`: the names of
    the checkpoints that are there; `now`: with its zone."""
    rows = _of_now(status, rows)
    newest = rows[-1] if rows else {}
    pace = _pace(status, rows, now)
    committed = _committed(events)
    there = [event for event in committed if event.directory in present]
    fault = _last_failure(status, events)
    return Standing(
        status=status,
        loss=newest.get("loss"),
        tokens_per_s=newest.get("tokens_per_s"),
        eta_s=pace.eta_s,
        since_step_s=pace.since_s,
        usual_step_s=pace.usual_s,
        quiet=pace.quiet,
        checkpoint=_newest(there, now),
        has_lost_all=bool(committed) and not there,
        next_command=next_command,
        recovered=None if fault is None else fault.over,
        fault=None if fault is None else _fault_of(fault, events, now),
        remark=vain_resume(events) if status.state == "FINISHED" else "",
        links=link_words(events),
        saves=save_words(rows, committed[-1].step if committed else None),
    )


@dataclass(frozen=True)
class _Pace:
    """As in `Standing`."""

    since_s: float | None
    usual_s: float | None
    eta_s: float | None = None
    quiet: bool = False


def _pace(status: RunStatus, rows: Sequence[MetricsRow], now: datetime) -> _Pace:
    pauses = _pauses_s(rows)
    since = _age_s(rows[-1].get("wall", ""), now) if rows else None
    usual = median(pauses) if pauses else None
    trains = status.state in ("RUNNING", "STOPPING") and not status.phase
    if not trains or usual is None or since is None:
        return _Pace(since, usual)
    if since > max(_USUAL_TIMES * max(pauses), DEADLINES.quiet_s):
        return _Pace(since, usual, quiet=True)
    return _Pace(since, usual, _left_s(status, usual, since))


def _last_failure(status: RunStatus, events: Sequence[Event]) -> Recovery | None:
    """The newest one, and what followed."""
    found = find_recoveries(events, (), is_lost=status.state == "LOST")
    return found[-1] if found else None


def _fault_of(failure: Recovery, events: Sequence[Event], now: datetime) -> NewestFault:
    decided = ""
    for event in events[failure.index :]:
        if isinstance(event, RecoveryDecided) and event.is_of_fault:
            decided = describe(event).text
    what = failure_words(failure.failure, failure.cause)
    age_s = _age_s(failure.wall, now) or 0.0
    return NewestFault(
        failure.place, what, failure.generation, age_s, decided, _outcome(failure, events)
    )


def _outcome(failure: Recovery, events: Sequence[Event]) -> str:
    """What became of it; empty while nothing has."""
    if failure.over is not None:
        return f"training again at step {failure.over.step + 1}"
    first = None if failure.over_at is None else events[failure.over_at]
    if isinstance(first, FirstStep):
        return f"training again at step {first.step}"
    return "nothing ended by it" if failure.is_ignored else ""


def _words_on(over: Recovered) -> str:
    """The last recovery in one line."""
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts_of(over))
    kept, forked = plural(len(over.kept), "worker"), len(over.forked)
    took = duration(over.first_step_s)
    return f"last recovery: {took} ({parts}), {kept} kept, {forked} forked"


def _left_s(status: RunStatus, usual: float, since: float) -> float:
    """The rest of the present step and those after it: to wait does not compute the latter."""
    left = status.steps - status.step
    return max(left - 1, 0) * usual + (max(usual - since, 0.0) if left else 0.0)


def _of_now(status: RunStatus, rows: Sequence[MetricsRow]) -> list[MetricsRow]:
    """The last rows, without those that a new generation is about to compute again."""
    is_present = bool(rows) and rows[-1].get("generation") == status.generation
    kept = [row for row in rows if is_present or row["step"] <= status.step]
    return kept[-_LOOKED_AT:]


def _pauses_s(rows: Sequence[MetricsRow]) -> list[float]:
    """From row to row of the newest row's generation: checkpoints and validation count."""
    written = []
    for row in rows:
        if row.get("wall") and row.get("generation") == rows[-1].get("generation"):
            written.append(read_wall(row["wall"]))
    pairs = itertools.pairwise(written)
    return [max((later - earlier).total_seconds(), 0.0) for earlier, later in pairs]


def _newest(there: Sequence[CheckpointCommitted], now: datetime) -> LastCheckpoint | None:
    if not there:
        return None
    newest = there[-1]
    return LastCheckpoint(newest.step, newest.directory, _age_s(newest.wall, now) or 0.0)


def _committed(events: Sequence[Event]) -> list[CheckpointCommitted]:
    """Those that count by the record, also where they have been deleted since. A generation that
    starts from the beginning leaves none."""
    found: dict[str, CheckpointCommitted] = {}
    for event in events:
        match event:
            case CheckpointCommitted():
                found[event.directory] = event
            case CheckpointRejected():
                found.pop(event.directory, None)
            case CheckpointsSetAside(names=names):
                for name in names:
                    found.pop(name, None)
            case GenerationStarted(resume=None):
                found.clear()
    return list(found.values())


def _age_s(wall: str, now: datetime) -> float | None:
    """Since an event's wall time; a clock of another machine may be ahead of ours."""
    if not wall:
        return None
    return max((now - read_wall(wall)).total_seconds(), 0.0)
