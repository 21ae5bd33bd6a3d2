"""What is known of one generation of workers: who lives, who is done, who failed and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from dougong.control.messages import Heartbeat, WorkerExited
from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.diagnosis import Diagnosis, settled
from dougong.fault.liveness import (
    arrival_words,
    is_last_worker_late,
    late_reason,
    stall_reason,
    stalled,
)
from dougong.fault.observation import (
    AgentLost,
    DeviceFailed,
    Exited,
    Failure,
    Hung,
    LinkCut,
    NotStarted,
    Raised,
)
from dougong.fault.self_inflicted import ENDS_ITS_PROCESS
from dougong.fault.suspicion import Roster, Suspicion, WorkerView
from dougong.launcher.controller.inbound.meeting_store import MeetingStore
from dougong.launcher.controller.inbound.worker_status import Everybody, WorkerStatus
from dougong.parallel.plan import Plan
from dougong.records.event.recovery_times import Restarted
from dougong.records.events import StateRestored


@dataclass
class Generation:
    """One generation. `failures`: in the order observed; the times are monotonic seconds, None
    while nothing of the kind has happened. `has_ended`: it is broken, and its workers leave it or
    are killed; `first_step`: the first one that it has done, 0 before; `store`: where its
    workers meet."""

    number: int
    workers: Mapping[str, WorkerStatus]
    failures: list[Failure] = field(default_factory=list)
    first_failure_at: float | None = None
    first_done_at: float | None = None
    last_exit_at: float | None = None
    has_stepped: bool = False
    has_ended: bool = False
    first_step: int = 0
    store: MeetingStore = field(default_factory=MeetingStore)

    @staticmethod
    def of_plan(
        number: int, plan: Plan, now: float, pids: Mapping[str, int | None] | None = None
    ) -> Generation:
        """A generation whose workers are about to be forked. `pids`: of those that live, by name;
        they are handed its task."""
        known = pids or {}
        statuses = [WorkerStatus(w, now, pid=known.get(w.name)) for w in plan.workers]
        return Generation(number, {status.worker.name: status for status in statuses})

    @property
    def survivors(self) -> dict[str, int | None]:
        """The process ids of the workers that have left and live, by name."""
        return {name: s.pid for name, s in self.workers.items() if s.has_left}

    @property
    def held_step(self) -> int:
        """The newest step that a survivor holds in memory; 0 where none does."""
        return max((s.held_step or 0 for s in self.workers.values() if s.has_left), default=0)

    @property
    def late(self) -> tuple[str, ...]:
        """Workers that were asked to leave, and neither have nor were killed."""
        statuses = self.workers.items()
        return tuple(n for n, s in statuses if s.is_leaving and not s.is_gone and not s.killed_at)

    def first_sign_of(self, diagnosis: Diagnosis, now: float) -> float:
        """When the failure was first seen, whose diagnosis is made now (monotonic seconds)."""
        first_at = now if self.first_failure_at is None else self.first_failure_at
        return min(first_at, now - (diagnosis.latency_s or 0.0))

    def drill_of(self, worker: str) -> float | None:
        """When the worker has told that its drill begins; None where it has not."""
        status = self.workers.get(worker)
        return None if status is None else status.drill_at

    @property
    def restarted(self) -> Restarted:
        """What its first step tells of a recovery."""
        kept = [name for name, status in self.workers.items() if status.is_kept]
        forked = [name for name, status in self.workers.items() if not status.is_kept]
        tiers = {} if self.fetched is None else self.fetched.tiers
        return Restarted(self.number, self.first_step, kept, forked, tiers)

    @cached_property
    def roster(self) -> Roster:
        """All workers, by rank."""
        return Roster(tuple(self.workers))

    def _everybody(self, is_so: Callable[[WorkerStatus], bool]) -> Everybody:
        return Everybody(self.workers.values(), is_so)

    @cached_property
    def _are_there(self) -> Everybody:
        return self._everybody(lambda status: status.is_there)

    @cached_property
    def _have_fetched(self) -> Everybody:
        return self._everybody(lambda status: status.fetched is not None)

    @cached_property
    def _have_built(self) -> Everybody:
        return self._everybody(lambda status: status.phase != "start")

    @cached_property
    def _have_rested(self) -> Everybody:
        return self._everybody(lambda status: status.rests)

    @cached_property
    def _are_done(self) -> Everybody:
        return self._everybody(lambda status: status.is_done and status.has_exited)

    @property
    def is_formed(self) -> bool:
        """Whether every worker's process is known to be there."""
        return bool(self._are_there)

    @property
    def fetched(self) -> StateRestored | None:
        """What all workers have said of their parts of the state; None while one has not."""
        if not self._have_fetched:
            return None
        told = [status.fetched for status in self.workers.values()]
        parts = [part for part in told if part is not None]
        tiers: Counter[str] = Counter()
        for part in parts:
            tiers.update(part.tiers)
        seconds = round(max(part.seconds for part in parts), 3)
        step = max(part.step for part in parts)
        return StateRestored(generation=self.number, step=step, tiers=dict(tiers), seconds=seconds)

    @property
    def is_built(self) -> bool:
        """Whether every worker has built its part of the model: its first step has begun."""
        return self.has_stepped or bool(self._have_built)

    @property
    def living(self) -> tuple[WorkerStatus, ...]:
        """Workers whose processes have not ended."""
        return tuple(status for status in self.workers.values() if not status.has_exited)

    @property
    def all_rest(self) -> bool:
        """Whether every worker has done its last step of a generation that is to end by order."""
        return bool(self._have_rested) and len(self.living) == len(self.workers)

    @property
    def all_exited(self) -> bool:
        return all(status.has_exited for status in self.workers.values())

    @property
    def all_done(self) -> bool:
        """Whether every worker has said that it is done, and its process has ended."""
        return bool(self._are_done)

    def is_settled(self, now: float, deadlines: Deadlines) -> bool:
        """Whether somebody failed and it is known who was first."""
        if self.first_failure_at is None:
            return False
        waited_s = now - self.first_failure_at
        return settled(self.failures, waited_s, len(self.workers), deadlines)

    def is_heard(self, worker: str) -> bool:
        """Whether what a worker prints is to be shown: after a failure only those who failed have
        news, the others are being ended."""
        return not self.failures or any(worker in failure.workers for failure in self.failures)

    def note_forked(self, worker: str, pid: int) -> None:
        """A worker's process is there: a new one, or a survivor's with the same number."""
        status = self.workers[worker]
        status.is_there, status.is_kept, status.pid = True, status.pid == pid, pid

    def note_end(self, leaving: Collection[str], now: float) -> None:
        """The generation is broken: these workers are asked to leave, all others killed."""
        self.has_ended, named = True, frozenset(leaving)
        for name, status in self.workers.items():
            status.is_leaving = name in named
            if not status.is_leaving:
                status.killed_at = now

    def note_killed(self, workers: Collection[str], now: float) -> None:
        """These have not left in time."""
        for name in workers:
            self.workers[name].killed_at = now

    def note_left(self, worker: str, step: int) -> None:
        """A worker has left the broken generation, and holds this step in memory."""
        self.workers[worker].held_step = step

    def note_beat(self, beat: Heartbeat, now: float) -> None:
        """An agent's heartbeat: the progress vectors of its workers."""
        for worker, progress in beat.progress.items():
            status = self.workers.get(worker)
            if status is not None and worker in beat.signs:
                status.signs, status.seen_at = beat.signs[worker], now
                status.awaited = progress.awaited
            # The same sequence number is the same report, sent again: it is no movement.
            if status is not None and progress.sequence != status.sequence:
                status.sequence = progress.sequence
                status.step, status.phase = progress.step, progress.phase
                status.operation = progress.operation
                status.moved_at, status.is_stalled = now, False

    def views(self, now: float) -> tuple[WorkerView, ...]:
        """How all workers are now that are still at work."""
        at_work = (status for status in self.living if not status.is_done)
        seen_by = now - DEADLINES.heartbeat_lag_s(len(self.roster.names))
        return tuple(status.view(self.roster, seen_by) for status in at_work)

    def note_hung(self, suspicion: Suspicion, now: float) -> None:
        """A worker is given up: what is suspected of it has lasted too long."""
        reason = f"{suspicion.why}, and was given up after {suspicion.limit}"
        latency_s = round(suspicion.since_s, 3)
        worker = suspicion.culprit.worker
        self._fail(Hung(worker, reason, suspicion.evidence, latency_s), now)

    def note_device(self, failure: DeviceFailed, now: float) -> None:
        """The device of a worker that is at work cannot be used any more."""
        status = self.workers.get(failure.worker)
        if status is not None and not status.is_done:
            self._fail(failure, now)

    def note_done(self, worker: str, now: float) -> None:
        """A worker's work is done; its process ends next."""
        self.workers[worker].is_done = True
        if self.first_done_at is None:
            self.first_done_at = now

    def note_drill(self, worker: str, fault: str, now: float) -> None:
        """A drill is about to do this to a worker, or to what serves it."""
        status = self.workers[worker]
        status.in_drill, status.drill_at = fault in ENDS_ITS_PROCESS, now

    def note_raised(self, worker: str, error: WorkerRaised, now: float) -> None:
        """A worker said with which exception it ends; its process ends soon, unless it stays."""
        self.workers[worker].stays = error.stays
        self._fail(Raised(worker, error), now)

    def note_exit(self, message: WorkerExited, now: float) -> Failure | None:
        """A process ended: a failure unless we asked for it, or its work was done."""
        status = self.workers[message.worker]
        status.has_exited, self.last_exit_at = True, now
        # `asked` alone decides: whatever signal it died of, we sent SIGKILL, and the failure for
        # which we did is known already.
        if message.asked or (status.is_done and message.code == 0):
            return None
        if message.text is not None:
            return self._fail(NotStarted(message.worker, message.text), now)
        failure = Exited(
            message.worker, message.code, message.oom, status.in_drill, message.last_lines
        )
        return self._fail(failure, now)

    def note_lost(self, failure: AgentLost | LinkCut, now: float) -> None:
        """An agent is gone, and those of its workers that had not ended with it: one failure."""
        named = [self.workers[name] for name in failure.workers if name in self.workers]
        living = [status for status in named if not status.has_exited]
        if not living:
            return
        for status in living:
            status.has_exited, self.last_exit_at = True, now
        self._fail(replace(failure, workers=tuple(s.worker.name for s in living)), now)

    def note_time(self, now: float, deadlines: Deadlines) -> tuple[WorkerStatus, ...]:
        """Give up who is still at work although another one is done; workers that have just
        stalled, each once per stall."""
        # A worker that is still at work may be computing, so it is not given up for standing still;
        # but all workers end their last step together, and then one that goes on is stuck.
        if is_last_worker_late(self.first_done_at, now, deadlines):
            for status in self.workers.values():
                if not status.is_done:
                    self._fail(Hung(status.worker.name, late_reason(deadlines)), now)
        # Hung or not, a worker whose progress stands still is warned of once, until it moves again.
        moving = {n: s.moved_at for n, s in self.workers.items() if not s.has_exited}
        found = [self.workers[name] for name in stalled(moving, now, deadlines)]
        news = tuple(status for status in found if not status.is_stalled)
        for status in news:
            status.is_stalled = True
        return news

    def stall_text(self, status: WorkerStatus, deadlines: Deadlines) -> str:
        """What the warning about a stalled worker says."""
        waits = ""
        if status.phase == "start":
            starting = [other for other in self.workers.values() if other.phase == "start"]
            behind = [other for other in starting if other.operation < status.operation]
            words = [f"{other.worker.name} on {other.worker.node}" for other in behind]
            waits = arrival_words(status.operation, words)
        return stall_reason(status.phase, status.step, deadlines, waits)

    def note_all_ended(self) -> None:
        """The agents have ended, and they leave no worker behind."""
        for status in self.workers.values():
            status.has_exited = True

    def _fail(self, failure: Failure, now: float) -> Failure | None:
        """Note a failure, and return it, if it is the first of one of its workers: an exception
        and the exit after it are one."""
        statuses = [self.workers[name] for name in failure.workers]
        if all(status.has_failed for status in statuses):
            return None
        for status in statuses:
            status.has_failed = True
        if self.first_failure_at is None:
            self.first_failure_at = now
        self.failures.append(failure)
        return failure
