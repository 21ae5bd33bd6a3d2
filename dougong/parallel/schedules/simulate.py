"""How long a step would take: the programs of all workers with durations instead of work.

A worker computes one operation at a time. A message starts when its send is posted and the channel
is free: from each worker to each other one there is one channel for dispatch and one for combine,
and one message at a time on it. What a worker sends to itself is there at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dougong.parallel.schedules.operation import MessageKind, Operation, Program
from dougong.parallel.schedules.walk import SentMessage, awaited, walk

Cost = Callable[[str, Operation], float]
"""cost(worker, operation): seconds that it computes; of a send, seconds that the message fills the
channel."""


@dataclass(frozen=True)
class Span:
    """Computation of a worker, or its message to `peer`, from `start_s` to `end_s` of the step."""

    worker: str
    operation: Operation
    start_s: float
    end_s: float
    peer: str | None = None


@dataclass(frozen=True)
class Timeline:
    """A simulated step. `computation` and `messages` are in the order of their worker's program."""

    programs: tuple[Program, ...]
    computation: tuple[Span, ...]
    messages: tuple[Span, ...]
    makespan_s: float


def simulate(programs: Sequence[Program], cost: Cost, latency_s: float = 0.0) -> Timeline:
    """Run a step in thought. A message arrives `latency_s` after it has left the channel.

    Raises `PlanError` for programs with a deadlock.
    """
    workers = _SimulatedWorkers(programs, cost, _Channels(programs, cost, latency_s))
    for program, operation in walk(programs):
        workers.run(program, operation)
    return workers.timeline()


class _SimulatedWorkers:
    """All workers, each with a clock of its own."""

    def __init__(self, programs: Sequence[Program], cost: Cost, channels: _Channels) -> None:
        self._programs, self._cost, self._channels = programs, cost, channels
        self._clock: dict[str, float] = defaultdict(float)
        self._computation: list[Span] = []

    def run(self, program: Program, operation: Operation) -> None:
        """The next operation of a worker, whose clock is then when that is done."""
        worker, now = program.worker, self._clock[program.worker]
        if operation.kind.sends is not None:
            self._channels.send(program, operation, now)
        elif operation.kind.receives is not None:
            arrived_s = self._channels.arrival(worker, awaited(self._programs, operation))
            self._clock[worker] = max(now, arrived_s)
        else:
            self._clock[worker] = end_s = now + self._cost(worker, operation)
            self._computation.append(Span(worker, operation, now, end_s))

    def timeline(self) -> Timeline:
        """What has been run so far."""
        makespan_s = max(self._clock.values(), default=0.0)
        messages = tuple(self._channels.spans)
        return Timeline(tuple(self._programs), tuple(self._computation), messages, makespan_s)


class _Channels:
    """All channels, and when each message of a step arrives."""

    def __init__(self, programs: Sequence[Program], cost: Cost, latency_s: float) -> None:
        self._programs, self._cost, self._latency_s = programs, cost, latency_s
        self._free: dict[tuple[str, str, str], float] = defaultdict(float)
        self._arrivals: dict[tuple[str, str, Operation], float] = {}
        self.spans: list[Span] = []

    def arrival(self, receiver: str, messages: Sequence[SentMessage]) -> float:
        """When the last of these messages has arrived."""
        times = [self._arrivals[sender, receiver, sending] for sender, sending in messages]
        return max(times, default=0.0)

    def send(self, sender: Program, operation: Operation, now: float) -> None:
        message = operation.kind.sends
        assert message is not None
        for receiver in self._programs:
            if receiver.receives(message):
                self._arrivals[sender.worker, receiver.worker, operation] = self._carry(
                    sender.worker, receiver.worker, message, operation, now
                )

    def _carry(
        self, sender: str, receiver: str, message: MessageKind, operation: Operation, now: float
    ) -> float:
        if sender == receiver:
            return now
        channel = sender, receiver, message.direction
        start = max(now, self._free[channel])
        self._free[channel] = end = start + self._cost(sender, operation)
        self.spans.append(Span(sender, operation, start, end, receiver))
        return end + self._latency_s
