"""Which workers hold up the others: from signs of life to suspicions. Pure.

Who hangs is who waits for nobody. A worker that waits for peers is held up by those of them who
wait for nobody themselves, or cannot: a process that is stopped, or whose interpreter does not
run, waits for nobody, whatever its vector said last. Where all wait for each other, nobody sends
what the first of them asks for.

To suspect costs a line on the screen; to act costs a worker. So suspicion comes early, and each one
says how long it has to last before anything is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from itertools import islice
from typing import Any

from dougong.control.progress import ForkServerSigns, WorkerSigns
from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.culprit import Culprit
from dougong.fault.stillness import WAIT, StillTimes

_STOPPED = ("T", "t")
_UNUSUAL = 2.0
"""A stillness of more than so many times what is usual is worth a line."""
_CIRCLE_TIMES = 3.0
"""Where all wait for each other their bytes may yet be on the way, on a link that has become slow.
Nothing else tells, and nothing is lost by some patience."""
_NAMED = 6
_EXPLAINED = 100
"""Of so many suspicions at a time, the surest, it is said who waits for the worker: where thousands
stand still at once, everybody would be looked at for each of them."""


class Sign(IntEnum):
    """Why something is suspected, the surest first; the first three, a device and a fork server are
    no workers."""

    NODE = 0
    LINK = 1
    AGENT = 2
    STOPPED = 3
    SILENT = 4
    IN_KERNEL = 5
    STILL = 6
    CIRCLE = 7
    DEVICE = 8
    FORK_SERVER = 9


@dataclass(frozen=True)
class Roster:
    """All workers of a generation, by rank."""

    names: tuple[str, ...]

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """By name."""
        return {name: rank for rank, name in enumerate(self.names)}

    @cached_property
    def all(self) -> int:
        """As bits."""
        return (1 << len(self.names)) - 1

    def bits(self, names: Iterable[str]) -> int:
        """Some of them as bits; others are left out."""
        if isinstance(names, WaitedFor) and names.roster is self:
            return names.ranks
        found = 0
        for name in names:
            if name in self.ranks:
                found |= 1 << self.ranks[name]
        return found


class WaitedFor(Sequence[str]):
    """Some of a generation's workers, as bits by rank: names are made of those alone that are asked
    for, as everybody may wait for all others."""

    def __init__(self, roster: Roster, ranks: int) -> None:
        """`ranks`: those that no worker of the roster has are left out."""
        self.roster, self.ranks = roster, ranks & roster.all

    def __bool__(self) -> bool:
        return self.ranks != 0

    def __len__(self) -> int:
        return self.ranks.bit_count()

    def __iter__(self) -> Iterator[str]:
        left = self.ranks
        while left:
            lowest = left & -left
            yield self.roster.names[lowest.bit_length() - 1]
            left ^= lowest

    def __contains__(self, name: object) -> bool:
        rank = self.roster.ranks.get(str(name))
        return rank is not None and bool(self.ranks >> rank & 1)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.start is None and (index.stop or 0) >= 0:
            return tuple(islice(self, index.stop))[:: index.step]
        return tuple(self)[index]


@dataclass(frozen=True)
class WorkerView:
    """What is known of one living worker at this moment. `awaited`: the workers that it waits for;
    `is_seen`: its agent is heard, so that this is how it is now."""

    name: str
    step: int = 0
    phase: str = "start"
    operation: int = 0
    awaited: Sequence[str] = ()
    signs: WorkerSigns = field(default_factory=WorkerSigns)
    is_seen: bool = True

    @property
    def place(self) -> str:
        """Where its work stands, in words."""
        return f"{self.phase} of step {self.step}, operation {self.operation}"

    @property
    def cannot_wait(self) -> bool:
        """Whether its process cannot do anything, not even wait."""
        return self.signs.state in _STOPPED


@dataclass(frozen=True)
class Suspicion:
    """Something holds up the run, or may. `since_s`: for so long by now; `limit_s`: if it lasts so
    long, it is acted on, which `limit` says in words; `evidence`: what was seen. `agents`: those
    that are given up then, empty where it is a worker."""

    culprit: Culprit
    sign: Sign
    why: str
    since_s: float
    limit_s: float
    limit: str
    evidence: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()

    @property
    def is_due(self) -> bool:
        return self.since_s > self.limit_s


def suspicions(
    views: Sequence[WorkerView], times: StillTimes, deadlines: Deadlines
) -> tuple[Suspicion, ...]:
    """All suspicions against workers, the surest first and of equal ones the oldest."""
    return _Judgement({view.name: view for view in views}, times, deadlines).all()


def of_fork_server(agent: str, signs: ForkServerSigns, deadlines: Deadlines) -> Suspicion | None:
    """What is suspected of an agent's fork server. It is never due here: the agent that sees it
    gives it up itself, and another one takes over."""
    least_s = DEADLINES.state_seen_s if signs.state in _STOPPED else deadlines.suspect_s
    if not signs.owes or signs.since_s <= least_s:
        return None
    return Suspicion(
        Culprit("fork_server", agent),
        Sign.FORK_SERVER,
        signs.owes.removeprefix("was "),
        signs.since_s,
        math.inf,
        deadlines.words("hang_s"),
        fork_server_facts(signs),
    )


def fork_server_facts(signs: ForkServerSigns) -> tuple[str, ...]:
    """What was seen of a fork server that does nothing, each one fact in words."""
    return (f"process state {signs.state} for {signs.since_s:.1f} s",)


def waits_for(view: WorkerView) -> str:
    """For whom a worker waits, in short; empty where it does not."""
    shown = ", ".join(view.awaited[:_NAMED])
    if len(view.awaited) > _NAMED:
        shown += f" and {len(view.awaited) - _NAMED} more"
    return f"waits for {shown}" if shown else ""


@dataclass(frozen=True)
class _Judgement:
    """One look at all workers."""

    views: Mapping[str, WorkerView]
    times: StillTimes
    deadlines: Deadlines

    def all(self) -> tuple[Suspicion, ...]:
        found = []
        for view in self.views.values():
            suspicion = self._of_worker(view) if view.is_seen else None
            if suspicion is not None:
                found.append(suspicion)
        found.sort(key=lambda one: (one.sign, -one.since_s))
        found[:_EXPLAINED] = map(self._explained, found[:_EXPLAINED])
        circle = self._circle()
        if circle is not None:
            found.append(circle)  # behind the others: its sign is the last
        return tuple(found)

    def _of_worker(self, view: WorkerView) -> Suspicion | None:
        signs, least_s = view.signs, self.deadlines.suspect_s
        if view.cannot_wait and signs.state_s > DEADLINES.state_seen_s:
            return self._suspicion(view, Sign.STOPPED, "stopped", signs.state_s)
        still_s = signs.still_s
        if min(signs.silent_s, still_s) > least_s:
            why = "its interpreter does not run"
            return self._suspicion(view, Sign.SILENT, why, min(signs.silent_s, still_s))
        if self._waits(view) or still_s <= least_s:
            return None
        if signs.state == "D" and signs.state_s > least_s:
            why = "in the kernel, as a rule for storage"
            return self._suspicion(view, Sign.IN_KERNEL, why, min(signs.state_s, still_s))
        usual_s = self.times.usual_s(view.name, view.phase)
        limit_s = self.times.limit_s(view.name, view.phase, self.deadlines)
        # Of a phase that may be long, or is new, nothing says that it is long now.
        is_unusual = usual_s is not None and still_s > _UNUSUAL * usual_s
        if still_s > limit_s or (is_unusual and limit_s < self.deadlines.warm_up_s):
            return self._suspicion(view, Sign.STILL, "waits for nobody and stands still", still_s)
        return None

    def _waits(self, view: WorkerView) -> bool:
        return bool(view.awaited) and not view.cannot_wait

    def _suspicion(self, view: WorkerView, sign: Sign, why: str, since_s: float) -> Suspicion:
        limit_s, limit = self._limit(view, sign)
        return Suspicion(
            Culprit("worker", view.name),
            sign,
            why,
            since_s,
            limit_s,
            limit,
            self._evidence(view),
        )

    def _limit(self, view: WorkerView, sign: Sign) -> tuple[float, str]:
        if sign is Sign.STOPPED:  # it neither reads nor compiles, whatever it was at
            return self.deadlines.hang_s, self.deadlines.words("hang_s")
        times, at = self.times, (view.name, view.phase)
        return times.limit_s(*at, self.deadlines), times.limit_words(*at, self.deadlines)

    def _evidence(self, view: WorkerView) -> tuple[str, ...]:
        signs = view.signs
        facts = []
        if signs.state:
            facts.append(f"process state {signs.state} for {signs.state_s:.1f} s")
        if signs.silent_s > self.deadlines.suspect_s:
            facts.append(f"no pulse of its interpreter for {signs.silent_s:.1f} s")
        facts.append(f"at {view.place}, not moved for {signs.still_s:.1f} s")
        return tuple(facts)

    def _explained(self, one: Suspicion) -> Suspicion:
        """With those who wait for it."""
        name = one.culprit.name
        waiting = [other.name for other in self.views.values() if name in other.awaited]
        if not waiting:
            return one
        words = f"{_listed(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for it"
        return replace(one, evidence=(*one.evidence, words))

    # All wait

    def _circle(self) -> Suspicion | None:
        """Where everybody whom a worker waits for waits too, without end."""
        waiting = [view for view in self.views.values() if self._may_be_closed(view)]
        # All of a circle have stood still for so long: as a rule nobody needs to be looked for.
        if all(view.signs.still_s <= self.deadlines.suspect_s for view in waiting):
            return None
        closed = self._closed(waiting)
        if not closed:
            return None
        first = max(closed, key=lambda view: view.signs.still_s)
        # As long as one of them moves, what it waits for may come.
        since_s = min(view.signs.still_s for view in closed)
        usual_s = [self.times.usual_s(view.name, WAIT) or 0.0 for view in closed]
        if since_s <= max(self.deadlines.suspect_s, _UNUSUAL * max(usual_s)):
            return None
        limits = [self.times.limit_s(view.name, WAIT, self.deadlines) for view in closed]
        limit_s = max(_CIRCLE_TIMES * self.deadlines.hang_s, *limits)
        facts = [f"{view.name} {waits_for(view)}, at {view.place}" for view in closed[:_NAMED]]
        return Suspicion(
            Culprit("worker", first.name),
            Sign.CIRCLE,
            f"{waits_for(first)}, and all wait for each other",
            since_s,
            limit_s,
            f"{limit_s:.1f} s ({_CIRCLE_TIMES:g} times fault.deadlines.hang_s, or what is usual)",
            tuple(facts),
        )

    def _may_be_closed(self, view: WorkerView) -> bool:
        return view.is_seen and self._waits(view) and view.phase != "start"

    def _closed(self, waiting: Sequence[WorkerView]) -> Sequence[WorkerView]:
        """Of these, in their order, who waits for nobody who is free to do anything, and neither do
        those for whom they wait in turn."""
        rosters = (view.awaited.roster for view in waiting if isinstance(view.awaited, WaitedFor))
        roster = next(rosters, None) or Roster(tuple(self.views))
        awaited = {view.name: roster.bits(view.awaited) for view in waiting}
        # One that has ended sends nothing any more: it is neither free nor waits.
        free = roster.bits(name for name in self.views if name not in awaited)
        while free:
            freed = [name for name, ranks in awaited.items() if ranks & free]
            for name in freed:
                del awaited[name]
            free = roster.bits(freed)
        return [view for view in waiting if view.name in awaited]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
