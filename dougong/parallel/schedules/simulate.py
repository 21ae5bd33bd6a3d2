"""How long a step would take: the programs of all workers with durations instead of work.

A worker computes one operation at a time. A message starts when its send is posted and the channel
is free: from each worker to each other one there is one channel for dispatch and one for combine,
and one message at a time on it. What a worker sends to itself is there at once.

Workers that are alike do the same at the same time, so that one of them is simulated for all: a
step of thousands of workers takes the time of one of as many as there are kinds of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dougong.parallel.schedules.operation import MessageKind, Operation, Program
from dougong.parallel.schedules.walk import turns

Cost = Callable[[str, Operation], float]
"""cost(worker, operation): seconds that it computes; of a send, seconds that the message fills the
channel."""

Alike = Callable[[str], Hashable]
"""alike(worker): equal for workers of one role whose operations all cost the same."""


@dataclass(frozen=True)
class Span:
    """Computation of a worker, or its message to `peer`, from `start_s` to `end_s` of the step."""

    worker: str
    operation: Operation
    start_s: float
    end_s: float
    peer: str | None = None


@dataclass(frozen=True)
class Team:
    """Workers that are alike, in the order of their programs."""

    number: int
    programs: tuple[Program, ...]

    @property
    def first(self) -> Program:
        return self.programs[0]

    @property
    def workers(self) -> list[str]:
        return [program.worker for program in self.programs]

    @property
    def has_mates(self) -> bool:
        return len(self.programs) > 1

    def num_channels(self, receivers: Team) -> int:
        """How many of its workers' messages go to others of these, of one kind."""
        to_oneself = len(self.programs) if receivers.number == self.number else 0
        return len(self.programs) * len(receivers.programs) - to_oneself


@dataclass(frozen=True)
class TeamSpan:
    """An operation of every worker of a team, from `start_s` to `end_s`: of a computation, or of a
    send's messages to others; a receive has none. `turn`: those of one happen side by side."""

    turn: int
    operation: Operation
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Timeline:
    """A simulated step: what happens by team, and for each worker of them. `computation` and
    `messages` are in the order of their worker's program."""

    programs: tuple[Program, ...]
    teams: tuple[Team, ...]
    moments: tuple[tuple[TeamSpan, ...], ...]
    """By team, computations and sends in the order of the program."""
    makespan_s: float

    def in_order(self) -> list[tuple[Program, Team]]:
        """Every program and its worker's team."""
        team_of: dict[str, Team] = {}
        for team in self.teams:
            team_of |= dict.fromkeys(team.workers, team)
        return [(program, team_of[program.worker]) for program in self.programs]

    @cached_property
    def computation(self) -> tuple[Span, ...]:
        """Of all workers; so many spans as they have computations together."""
        return tuple(self._spans_of_computation())

    @cached_property
    def messages(self) -> tuple[Span, ...]:
        """Of all pairs of workers: a number that grows with the square of theirs."""
        return tuple(self._spans_of_messages())

    def _spans_of_computation(self) -> Iterator[Span]:
        for program, moment in self._in_turns():
            if moment.operation.kind.computes:
                yield Span(program.worker, moment.operation, moment.start_s, moment.end_s)

    def _spans_of_messages(self) -> Iterator[Span]:
        for program, moment in self._in_turns():
            message = moment.operation.kind.sends
            if message is None:
                continue
            for receiver in self.programs:
                if receiver is not program and receiver.receives(message):
                    times = moment.start_s, moment.end_s
                    yield Span(program.worker, moment.operation, *times, receiver.worker)

    def _in_turns(self) -> Iterator[tuple[Program, TeamSpan]]:
        """What each worker does, as a walk through all programs meets it."""
        places = {program.worker: place for place, program in enumerate(self.programs)}
        by_turn: dict[int, list[tuple[int, Program, TeamSpan]]] = {}
        for team, moments in zip(self.teams, self.moments, strict=True):
            for moment in moments:
                of_turn = by_turn.setdefault(moment.turn, [])
                of_turn += [(places[p.worker], p, moment) for p in team.programs]
        for turn in sorted(by_turn):
            for _, program, moment in sorted(by_turn[turn], key=lambda entry: entry[0]):
                yield program, moment


def simulate(
    programs: Sequence[Program],
    cost: Cost,
    latency_s: float = 0.0,
    alike: Alike | None = None,
) -> Timeline:
    """Run a step in thought. A message arrives `latency_s` after it has left the channel. Neither
    costs nor `latency_s` are negative. `alike`: who is like whom; by default nobody is.

    Raises `PlanError` for programs with a deadlock.
    """
    teams = _teams_of(programs, alike)
    runs = {team.first.worker: _TeamRun(team) for team in teams}
    mail = _Mail(teams, cost, latency_s)
    for turn, ready in enumerate(turns([team.first for team in teams])):
        for program, operation in ready:
            run = runs[program.worker]
            if operation.kind.sends is not None:
                run.note(turn, operation, mail.send(run.team, operation, run.clock_s))
            elif operation.kind.receives is not None:
                run.clock_s = max(run.clock_s, mail.arrival(run.team, operation))
            else:
                start_s, run.clock_s = run.clock_s, run.clock_s + cost(program.worker, operation)
                run.note(turn, operation, (start_s, run.clock_s))
    makespan_s = max((run.clock_s for run in runs.values()), default=0.0)
    moments = tuple(tuple(run.moments) for run in runs.values())
    return Timeline(tuple(programs), tuple(teams), moments, makespan_s)


def _teams_of(programs: Sequence[Program], alike: Alike | None) -> list[Team]:
    """In the order of their first programs."""
    teams: dict[Hashable, list[Program]] = {}
    for program in programs:
        kind = program.worker if alike is None else (program.shared, alike(program.worker))
        teams.setdefault(kind, []).append(program)
    return [Team(number, tuple(members)) for number, members in enumerate(teams.values())]


@dataclass
class _TeamRun:
    """How far a team is."""

    team: Team
    clock_s: float = 0.0
    moments: list[TeamSpan] = field(default_factory=list)

    def note(self, turn: int, operation: Operation, times: tuple[float, float] | None) -> None:
        if times is not None:
            self.moments.append(TeamSpan(turn, operation, *times))


@dataclass(frozen=True)
class _Sent:
    """When the workers of a team sent a message, and when the others have it."""

    sent_s: float
    arrived_s: float


@dataclass(frozen=True)
class _Latest:
    """When all of a kind of messages have arrived: those of the `team` whose messages come last,
    and those of all other teams."""

    team: int
    arrived_s: float
    others_s: float


_MessageKey = tuple[MessageKind | None, int, int]
"""(kind, site, micro-batch)."""


class _Mail:
    """All channels, and when each message of a step arrives.

    A worker's messages go to all workers of the other side at once, so that all its channels of one
    direction are free at the same time; its mates' channels are, too.
    """

    def __init__(self, teams: Sequence[Team], cost: Cost, latency_s: float) -> None:
        self._teams, self._cost, self._latency_s = teams, cost, latency_s
        self._num_receivers: dict[MessageKind, int] = {}
        for message in MessageKind:
            receivers = [team for team in teams if team.first.receives(message)]
            self._num_receivers[message] = sum(len(team.programs) for team in receivers)
        self._free: dict[tuple[int, str], float] = defaultdict(float)
        self._sent: dict[_MessageKey, dict[int, _Sent]] = defaultdict(dict)
        self._latest: dict[_MessageKey, _Latest] = {}

    def send(self, sender: Team, operation: Operation, now: float) -> tuple[float, float] | None:
        """From when to when its messages fill their channels; None where nobody else gets one."""
        message = operation.kind.sends
        assert message is not None
        key = message, operation.site, operation.microbatch
        self._latest.pop(key, None)
        if not self._goes_to_others(sender, message):
            self._sent[key][sender.number] = _Sent(now, now)
            return None
        channel = sender.number, message.direction
        start = max(now, self._free[channel])
        self._free[channel] = end = start + self._cost(sender.first.worker, operation)
        self._sent[key][sender.number] = _Sent(now, end + self._latency_s)
        return start, end

    def _goes_to_others(self, sender: Team, message: MessageKind) -> bool:
        return self._num_receivers[message] > sender.first.receives(message)

    def arrival(self, receiver: Team, operation: Operation) -> float:
        """When the last of the messages that a receive waits for has arrived."""
        message = operation.kind.receives
        assert message is not None
        key = message, operation.site, operation.microbatch
        if key not in self._latest:
            self._latest[key] = self._find_latest(message, self._sent[key])
        latest = self._latest[key]
        if receiver.number != latest.team or receiver.has_mates:
            arrived_s = latest.arrived_s
        else:
            arrived_s = latest.others_s
        if receiver.first.sends(message):
            arrived_s = max(arrived_s, self._sent[key][receiver.number].sent_s)
        return arrived_s

    def _find_latest(self, message: MessageKind, sent: Mapping[int, _Sent]) -> _Latest:
        latest = _Latest(-1, 0.0, 0.0)
        for number, of_team in sent.items():
            if not self._teams[number].first.sends(message):
                continue
            if of_team.arrived_s > latest.arrived_s:
                latest = _Latest(number, of_team.arrived_s, latest.arrived_s)
            else:
                others_s = max(latest.others_s, of_team.arrived_s)
                latest = _Latest(latest.team, latest.arrived_s, others_s)
        return latest
