"""One generation of workers as the controller sees it: who lives, who is done, who failed and how.
Decides nothing."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

from dougong.control.messages import Heartbeat, WorkerExited
from dougong.control.worker_messages import WorkerRaised
from dougong.fault.diagnosis import Fact, settled
from dougong.parallel.plan import Plan, Worker, experts_text


@dataclass
class WorkerStatus:
    """One worker of the generation. `step`, `phase`: what its progress vector said last, `moved_at`
    when it changed."""

    worker: Worker
    pid: int | None = None
    exited: bool = False
    done: bool = False
    drill: bool = False
    failed: bool = False
    stalled: bool = False
    sequence: int = 0
    step: int = 0
    phase: str = "start"
    moved_at: float = field(default_factory=time.monotonic)

    def describe(self) -> dict[str, Any]:
        """As in status.json."""
        worker = self.worker
        return {
            "name": worker.name,
            "host": worker.node,
            "pid": self.pid,
            "device": worker.device,
            "role": worker.role,
            "lanes": list(worker.lanes),
            "experts": experts_text(worker.experts),
            "alive": self.pid is not None and not self.exited,
            "step": self.step,
            "phase": self.phase,
        }


@dataclass
class Generation:
    """`start_step`: the last step already done when it began. `facts`: failures in the order
    observed."""

    number: int
    plan: Plan
    start_step: int
    mates: dict[str, WorkerStatus] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    first_fact_at: float = 0.0
    first_done_at: float | None = None
    has_stepped: bool = False

    def __post_init__(self) -> None:
        self.mates = {worker.name: WorkerStatus(worker) for worker in self.plan.workers}

    @property
    def all_exited(self) -> bool:
        return all(mate.exited for mate in self.mates.values())

    @property
    def all_done(self) -> bool:
        return all(mate.done and mate.exited for mate in self.mates.values())

    def is_settled(self, now: float) -> bool:
        """Whether somebody failed and it is known who was first."""
        return bool(self.facts) and settled(self.facts, now - self.first_fact_at, len(self.mates))

    def is_speaking(self, worker: str, generation: int) -> bool:
        """Whether what the worker prints is news: it is of this generation, and nobody else has
        failed before it."""
        return generation == self.number and (
            not self.facts or any(fact.worker == worker for fact in self.facts)
        )

    def note_exit(self, message: WorkerExited) -> Fact | None:
        """A process ended. The fact, when this is news and a failure."""
        mate = self.mates[message.worker]
        mate.exited = True
        if message.asked or mate.failed or (mate.done and message.code == 0):
            return None
        return self._fail(
            mate,
            Fact(
                mate.worker.name,
                message.code,
                None,
                message.oom,
                mate.drill,
                text=message.text,
                last_lines=message.last_lines,
            ),
        )

    def note_error(self, worker: str, error: WorkerRaised) -> Fact | None:
        """A worker told of its exception; its process ends soon."""
        mate = self.mates[worker]
        return (
            None if mate.failed else self._fail(mate, Fact(worker, error=dataclasses.asdict(error)))
        )

    def note_lost(self, workers: tuple[str, ...], reason: str) -> list[Fact]:
        """An agent is gone, and its workers with it."""
        facts = []
        for mate in (self.mates[w] for w in workers if w in self.mates):
            news = not mate.exited and not mate.failed
            mate.exited = True
            if news:
                facts.append(self._fail(mate, Fact(mate.worker.name, lost=reason)))
        return facts

    def note_hung(self, reason: str) -> list[Fact]:
        """Those who are still at work, although the others have ended."""
        late = [mate for mate in self.mates.values() if not mate.done and not mate.failed]
        return [self._fail(mate, Fact(mate.worker.name, hung=reason)) for mate in late]

    def note_done(self, worker: str) -> None:
        self.mates[worker].done = True
        self.first_done_at = self.first_done_at or time.monotonic()

    def note_beat(self, message: Heartbeat) -> None:
        """An agent's heartbeat: the progress vectors of its workers."""
        now = time.monotonic()
        for worker, seen in message.progress.items():
            mate = self.mates[worker]
            if seen.sequence != mate.sequence:
                mate.sequence, mate.step, mate.phase = seen.sequence, seen.step, seen.phase
                mate.moved_at, mate.stalled = now, False

    def newly_stalled(self, limit_s: float) -> list[WorkerStatus]:
        """Workers whose progress has just been still for longer than `limit_s`; each is told once
        per stall."""
        now = time.monotonic()
        still = [
            m
            for m in self.mates.values()
            if not m.exited and not m.stalled and now - m.moved_at > limit_s
        ]
        for mate in still:
            mate.stalled = True
        return still

    def _fail(self, mate: WorkerStatus, fact: Fact) -> Fact:
        mate.failed = True
        if not self.facts:
            self.first_fact_at = time.monotonic()
        self.facts.append(fact)
        return fact
