"""Decide how a broken generation ends: who leaves it and lives on, who is killed, when nobody is in
it any more, and from what the next one goes on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dougong.checkpoint.directories import step_of
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.fault.devices import blamed, may_be_the_device_s, pointed_at
from dougong.fault.diagnosis import Diagnosis, diagnose, first_failure
from dougong.fault.policy import Decision, PastFailure, is_given_up, storage_pause_s
from dougong.launcher.controller.actions import (
    Action,
    Enter,
    FindCheckpoint,
    GiveUp,
    KillLate,
    LoseAgent,
    Record,
)
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.generation import Generation
from dougong.launcher.controller.inbound.items import FoundCheckpoint
from dougong.launcher.controller.inbound.worker_status import WorkerStatus
from dougong.launcher.controller.looks import warning
from dougong.launcher.controller.states import Recovering, Starting, State
from dougong.records.events import DeviceQuarantined, SurvivorLost, Waiting


def who_leaves(generation: Generation, decision: Decision, ends: bool) -> tuple[str, ...]:
    """The workers that live on in the next generation: all that have not failed, and those that
    have only lost a peer. `ends`: there is no next one."""
    if ends or decision.action == "fail":
        return ()
    return tuple(name for name, status in generation.workers.items() if status.may_survive)


def is_settled(facts: RunFacts, generation: Generation, deadlines: Deadlines, now: float) -> bool:
    """Whether somebody failed and it is known who was first, and what its device says of it."""
    if not generation.is_settled(now, deadlines):
        return False
    first, _ = first_failure(generation.failures)
    if not may_be_the_device_s(first):
        return True
    failed_at = generation.first_failure_at
    assert failed_at is not None, "something has failed"
    return facts.devices.watch.has_word_on(first.workers[0], failed_at, now)


def with_device(diagnosis: Diagnosis, facts: RunFacts, now: float) -> Diagnosis:
    """The diagnosis, with a worker's device as its culprit where that has told of a fault, or its
    numbers are wrong."""
    if not diagnosis.worker:
        return diagnosis
    if diagnosis.kind == "corruption":
        return pointed_at(diagnosis, facts.devices.watch.device_of(diagnosis.worker))
    return blamed(diagnosis, facts.devices.watch.blame(diagnosis.worker, now))


def put_aside(facts: RunFacts, policy: RunPolicy, failure: PastFailure) -> tuple[Record, ...]:
    """The device that has failed goes into quarantine, if it is given up: also where the run
    ends."""
    device = failure.diagnosis.culprit
    worker = facts.devices.watch.worker_on(device)
    if worker is None or not is_given_up(failure, policy.job.fault, facts.history):
        return ()
    handle = facts.agents.of_worker(worker)
    assert handle is not None, "who has told of a device is one of the run's agents"
    event = DeviceQuarantined(
        generation=failure.generation,
        worker=worker,
        accelerator=handle.spec.accelerator,
        key=device.name,
        node=facts.listed_name(handle) or facts.host_of(handle),
        why=failure.diagnosis.cause,
    )
    return (Record(event),)


def lose_withdrawn(facts: RunFacts) -> tuple[LoseAgent, ...]:
    """Agents that must be laid out anew, since one of their devices is not used any more. By now
    their workers have left and copied what they hold."""
    return tuple(LoseAgent(name, why) for name, why in facts.devices.withdrawn.items())


def tell_lost_agents(facts: RunFacts, state: State) -> Iterator[Record]:
    """Agents that are gone besides what the diagnosis names, each once. Those that this recovery
    has started are told with its search for a node."""
    if not isinstance(state, Recovering):
        return
    named = None if state.diagnosis is None else state.diagnosis.culprit
    for handle in facts.agents.lost:
        if handle.is_told or handle.failure is None or handle.spec.name in state.restarted:
            continue
        found = diagnose(handle.failure)
        culprit = found.culprit
        if named is not None and (culprit.kind, culprit.name) == (named.kind, named.name):
            continue
        event = SurvivorLost(
            generation=facts.number,
            agent=handle.spec.name,
            node=facts.agents.node_of_agent(handle, ""),
            failure=found.kind,
            cause=found.cause,
        )
        yield Record(event)


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


def is_held_in_memory(facts: RunFacts, state: Recovering) -> bool:
    """Whether the next generation may go on from what its workers hold in memory.

    The newest committed checkpoint is given to it besides. That is read, and every byte of what is
    read verified, only for what no memory holds; so a search for a valid one would cost time for
    nothing. When such a reading has failed, the search is what helps, and memory is not asked; nor
    is it where it is not trusted.
    """
    generation = facts.generation
    is_held = generation is not None and generation.held_step > 0
    kind = None if state.diagnosis is None else state.diagnosis.kind
    return is_held and kind != "storage" and not rolls_back(state)


def rolls_back(state: State) -> bool:
    """Whether what workers hold in memory does not count."""
    return isinstance(state, Recovering) and state.decision.action == "roll_back"


def last_step(facts: RunFacts, found: FoundCheckpoint) -> tuple[int, bool]:
    """The last step that is done, as far as is known before the next workers have agreed on it; and
    whether it is held in memory."""
    if found.in_memory:
        assert facts.generation is not None, "a survivor has said so"
        return facts.generation.held_step, True
    saved = 0 if found.directory is None else step_of(found.directory) or 0
    # At a start, workers of the controller before may hold a later one.
    kept = facts.agents.kept_step if facts.generation is None else 0
    return max(saved, kept), kept > saved


def without_checkpoint(
    facts: RunFacts, state: Starting | Recovering, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """What follows where there is no checkpoint to go on from, or none is given. A start ends, as
    somebody is there; a recovery waits for storage that does not give one now."""
    found, away, limits = facts.checkpoints.found, facts.checkpoints.away, policy.deadlines
    assert found is not None and found.refusal is not None, "the search has ended without one"
    error = found.refusal
    if away is None or isinstance(state, Starting):
        return (GiveUp(error),)
    waited = limits.words("storage_wait_s")
    if now - away.since > limits.storage_wait_s:
        return (GiveUp(LaunchError(f"{error}; the controller waited {waited}")),)
    if now - away.at >= storage_pause_s(limits, away.tries):
        return Enter(replace(state, since=now)), FindCheckpoint()
    text = f"storage, for a checkpoint to go on from: {error}; tries again, {waited} at most"
    if text == facts.awaited:
        return ()
    return (Record(Waiting(generation=facts.number, text=text)),)


def refused_last_save(
    facts: RunFacts, generation: Generation, policy: RunPolicy
) -> tuple[Action, ...]:
    """What is told, once, while workers try again to save the step that is their last; nothing
    where storage takes it."""
    is_saving = any(status.phase == "checkpoint" for status in generation.living)
    if not (is_saving and facts.checkpoints.has_refused(facts.step)):
        return ()
    return without_last_save(facts, policy)


def without_last_save(facts: RunFacts, policy: RunPolicy) -> tuple[Action, ...]:
    """Say once what the end of a run waits for whose last save storage has refused, and how it ends
    sooner."""
    failed, kept = facts.checkpoints.failed, facts.checkpoints.parent or "no checkpoint"
    assert failed is not None, "a save has failed"
    request = "Ctrl-C twice" if facts.stop is None else "a second Ctrl-C"
    text = (
        f"storage, for the last checkpoint (step {failed.step}); tries again, "
        f"{policy.deadlines.words('commit_checkpoint_s')} at most; {request} or "
        f"`dougong stop {policy.run_dir.path} --now` ends the run without it ({kept} is kept)"
    )
    if text == facts.awaited:
        return ()
    return (Record(Waiting(generation=facts.number, text=text)),)
