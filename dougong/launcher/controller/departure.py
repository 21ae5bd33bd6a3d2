"""Decide how a broken generation ends: who leaves it and lives on, who is killed, and when nobody
is in it any more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dougong.checkpoint.directories import step_of
from dougong.deadlines import Deadlines
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.policy import Decision
from dougong.launcher.controller.actions import KillLate, Record
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.generation import Generation, WorkerStatus
from dougong.launcher.controller.inbound.items import FoundCheckpoint
from dougong.launcher.controller.looks import warning


def who_leaves(generation: Generation, decision: Decision, ends: bool) -> tuple[str, ...]:
    """The workers that live on in the next generation: all that have not failed, and those that
    have only lost a peer. `ends`: there is no next one."""
    if ends or decision.action == "fail":
        return ()
    return tuple(name for name, status in generation.workers.items() if status.may_survive)


@dataclass(frozen=True)
class Parting:
    """One look, `now`, at a generation that was broken at `since` (monotonic seconds)."""

    facts: RunFacts
    generation: Generation
    since: float
    deadlines: Deadlines
    now: float

    @property
    def is_over(self) -> bool:
        """Whether every worker has left or ended, or can no longer be waited for."""
        return len(self._stuck) == len(self._present)

    def kill_late(self) -> tuple[KillLate, ...]:
        """End those who have not left in time. They wait for something that does not come, or
        compute; the next generation would wait for them."""
        late = self.generation.late
        if not late or self.now - self.since <= self.deadlines.leave_s:
            return ()
        return (KillLate(self.generation.number, late),)

    def left_behind(self) -> tuple[Record, ...]:
        """What is told of workers that SIGKILL does not end. They are stuck in the kernel; the next
        generation may begin without them, since its number keeps them out of it."""
        names = [status.worker.name for status in self._stuck]
        if not names:
            return ()
        waited = self.deadlines.words("kill_s")
        text = f"not ended after SIGKILL: the controller waited {waited}; left behind"
        return (warning(self.facts, text, *names),)

    @property
    def _present(self) -> Sequence[WorkerStatus]:
        return [status for status in self.generation.workers.values() if not status.is_gone]

    @property
    def _stuck(self) -> Sequence[WorkerStatus]:
        limit_s = self.deadlines.kill_s
        killed = [(s, s.killed_at) for s in self._present]
        return [s for s, at in killed if at is not None and self.now - at > limit_s]


def is_held_in_memory(facts: RunFacts, diagnosis: Diagnosis | None) -> bool:
    """Whether the next generation may go on from what its workers hold in memory.

    The newest committed checkpoint is given to it besides. That is read, and every byte of what is
    read verified, only for what no memory holds; so a search for a valid one would cost time for
    nothing. When such a reading has failed, the search is what helps, and memory is not asked.
    """
    generation = facts.generation
    is_held = generation is not None and generation.held_step > 0
    return is_held and (diagnosis is None or diagnosis.kind != "storage")


def last_step(facts: RunFacts, found: FoundCheckpoint) -> int:
    """The last step that is done, as far as is known before the next workers have agreed on it."""
    if found.in_memory:
        assert facts.generation is not None, "a survivor has said so"
        return facts.generation.held_step
    return 0 if found.directory is None else step_of(found.directory) or 0
