"""Decide: what to do next, from the facts, the state, the policy and the time. Pure."""

from __future__ import annotations

import itertools
from dataclasses import replace

from dougong.deadlines import Deadlines
from dougong.errors import (
    DougongError,
    LaunchError,
    ReproducibilityError,
    SupersededError,
    WorkerError,
)
from dougong.fault.diagnosis import Diagnosis, diagnose, first_failure
from dougong.fault.liveness import limit_of_stop
from dougong.fault.past import cause_of_end, words_of_end
from dougong.fault.policy import Budget, PastFailure, decide
from dougong.fault.replacement import Remedy
from dougong.launcher.controller.actions import (
    Action,
    AskToStop,
    CommitCheckpoint,
    DropAgent,
    EndGeneration,
    Enter,
    ForgetParts,
    Record,
)
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.departure import (
    Parting,
    is_settled,
    lose_withdrawn,
    put_aside,
    refused_last_save,
    tell_lost_agents,
    who_leaves,
    with_device,
    without_last_save,
)
from dougong.launcher.controller.drills import due_drills
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.generation import Generation
from dougong.launcher.controller.looks import with_advice, with_place
from dougong.launcher.controller.relocation import FirstLayout, Relocation
from dougong.launcher.controller.reserve import Reserve
from dougong.launcher.controller.stages import Preparation
from dougong.launcher.controller.states import (
    Ended,
    Growing,
    Outcome,
    Recovering,
    Running,
    Stage,
    Starting,
    State,
    Stopping,
)
from dougong.records import events

_OF_AGENTS = (
    Stage.NODES,
    Stage.ROOM,
    Stage.PLACES,
    Stage.JOIN,
    Stage.PATHS,
    Stage.READY,
    Stage.FINGERPRINTS,
)
"""Stages in which lost agents are laid out and started anew."""


def next_actions(
    facts: RunFacts, state: State, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """What to do now; nothing means: wait for the next item or the next tick. Call again after
    acting, since one decision may make the next one possible."""
    if isinstance(state, Ended):
        return ()
    if facts.successor:
        error = SupersededError(
            f"{policy.run_dir.path}: {facts.successor} has taken this run over, as this controller "
            "had not been heard of: it goes on there"
        )
        return _end(Outcome.failed(error, facts.has_begun))
    broken = _broken_promise(facts, policy)
    if broken is not None:
        return _end(Outcome.failed(broken, facts.has_begun))
    urgent = _keep_house(facts, state) or due_drills(facts, state, policy, now)
    urgent = urgent or Reserve(facts, policy, now).keep()
    if urgent:
        return urgent
    if facts.stop is not None and _stops_at_once(facts, state):
        return _end(Outcome("STOPPED", facts.stop.status))
    try:
        return _follow(facts, state, policy, now)
    except DougongError as error:
        return _fail(facts, state, error)


def _broken_promise(facts: RunFacts, policy: RunPolicy) -> ReproducibilityError | None:
    """The end of a run that promises its bits and has computed a step again with others.

    It comes before anything else that is due: no checkpoint of such a step is committed, so none of
    those before it is pruned.
    """
    difference = facts.recomputation.difference
    if difference is None or not policy.job.needs_exact_kernels:
        return None
    earlier = difference.differs_from
    assert earlier is not None, "a difference is one from somebody"
    if earlier < facts.same_since:
        return None  # a resume has changed since what may change bits: it was told, and that is all
    return ReproducibilityError(
        f"step {difference.last}: generation {difference.generation} has computed it again with "
        f"other bits than generation {earlier} (ledger {difference.then} then, {difference.now} "
        "now), and this job promises the same (determinism: layout, numerics: exact); a device "
        "computes wrongly, or something outside the job has changed; the checkpoints before that "
        "step are kept: mend it (`dougong fingerprint` compares devices) and resume, or accept "
        "other bits by `-o numerics=bounded`"
    )


def _keep_house(facts: RunFacts, state: State) -> tuple[Action, ...]:
    """What is due in every state: lost agents are let go, whole checkpoints committed."""
    due: list[Action] = [*tell_lost_agents(facts, state)]
    for handle in (*facts.agents.lost, *facts.agents.fallen):
        if not handle.is_dropped:
            due.append(DropAgent(handle.spec.name))
    if facts.generation is not None:
        for step, parts in facts.checkpoints.whole(len(facts.generation.workers)).items():
            due.append(CommitCheckpoint(step, facts.generation.number, dict(parts)))
    return tuple(due)


def _stops_at_once(facts: RunFacts, state: State) -> bool:
    """Whether there is no step in progress that a requested stop could let end."""
    assert facts.stop is not None
    if facts.stop.now:
        return True
    match state:
        case Running():
            # A step ends, or the last checkpoint is being committed; workers that still meet and
            # build their model have no step to end. But their memory may hold what is not saved.
            is_building = facts.generation is not None and not facts.generation.is_built
            return is_building and not facts.checkpoints.lacks(facts.step)
        case Stopping() | Recovering(was_stopping=True):
            return False  # this request has been met already; a second one says `now`
        case Growing() | Recovering(diagnosis=None):
            return False  # no worker has lost its step: the next generation, or this one, saves it
        case Recovering(stage=Stage.WORKERS_END):
            # A checkpoint that was whole before the failure must not be lost by a stop either.
            return facts.checkpoints.num_open == 0
        case _:
            return True


def _follow(facts: RunFacts, state: State, policy: RunPolicy, now: float) -> tuple[Action, ...]:
    """The state's own course. Raises what ends the run."""
    relocates = isinstance(state, Recovering) and state.stage in _OF_AGENTS
    if isinstance(state, Starting):
        laid_out = FirstLayout(facts, state, policy, now).next_actions()
        if laid_out:
            return laid_out
    if facts.error is not None and not relocates:
        raise facts.error
    match state:
        case Starting():
            # An agent lost later is the first generation's failure: the policy decides.
            if state.stage is not Stage.CHECKPOINT:
                _refuse_lost_agents(facts)
            return Preparation(facts, state, policy, now).next_actions()
        case Recovering():
            return _recover(facts, state, policy, now)
        case _:
            return _train(facts, state, policy, now)


def _refuse_lost_agents(facts: RunFacts) -> None:
    lost = [str(handle.lost) for handle in facts.agents.lost]
    if lost:
        raise LaunchError("\n".join(lost))


# Training


def _train(facts: RunFacts, state: State, policy: RunPolicy, now: float) -> tuple[Action, ...]:
    generation = facts.generation
    assert generation is not None, "no generation has begun"
    # Done comes before failed: when every worker has said that it is done and has ended, no failure
    # that is heard of afterwards can have cost anything.
    if generation.all_done:
        return _conclude(facts, generation, policy, now)
    if facts.checkpoints.error is not None and facts.checkpoints.is_in_vain:
        raise facts.checkpoints.error
    if is_settled(facts, generation, policy.deadlines, now):
        return _begin_recovery(facts, generation, policy, now)
    if isinstance(state, Running | Growing) and facts.stop is not None and not generation.all_rest:
        number = generation.number
        return AskToStop(number), Enter(Stopping(number, facts.stop, now))
    if isinstance(state, Stopping) and not generation.all_rest:
        return _give_up_step(facts, generation, state, policy, now)
    told: tuple[Action, ...] = ()
    if facts.step >= policy.job.steps:
        told = refused_last_save(facts, generation, policy)
    return told or Reserve(facts, policy, now).next_actions(state, generation)


def _give_up_step(
    facts: RunFacts, generation: Generation, state: Stopping, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """The end of a stop that the workers do not meet: as long as one of them moves, the step may
    end; when all stand still, they wait for somebody who does not come."""
    living, deadlines = generation.living, policy.deadlines
    phases = {status.phase for status in living}
    limit = limit_of_stop(phases, facts.checkpoints.num_open > 0)
    moved_at = max((status.moved_at for status in living), default=state.since)
    if now - max(moved_at, state.since) <= getattr(deadlines, limit):
        return refused_last_save(facts, generation, policy)
    given_up = events.StepGivenUp(
        generation=generation.number,
        limit=deadlines.words(limit),
        workers=tuple(status.still() for status in living),
        checkpoint=facts.checkpoints.parent,
    )
    return Record(given_up), *_end(Outcome("STOPPED", state.stop.status))


def _conclude(
    facts: RunFacts, generation: Generation, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """All workers are done: the run ends when their last checkpoint is committed."""
    checkpoints = facts.checkpoints
    if checkpoints.num_open:
        _refuse_late_commit(generation, policy.deadlines, now)
        return ()
    # A worker is done when its part is durable or refused for good, so that one that is not here
    # by now never comes.
    if checkpoints.awaited:
        steps = ", ".join(map(str, checkpoints.awaited))
        raise LaunchError(
            f"the checkpoint of step {steps} is not whole: not every worker sent its part; see the "
            "logs"
        )
    if checkpoints.error is not None:
        return _commit_again(facts, generation, policy, now)
    # A stop that came in the last step has stopped nothing.
    if facts.stop is not None and facts.step < policy.job.steps:
        return _end(Outcome("STOPPED", facts.stop.status))
    return _end(Outcome("FINISHED", 0))


def _commit_again(
    facts: RunFacts, generation: Generation, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """A run that is done waits for storage to take its last checkpoint. Raises why it has not."""
    refused, error, deadlines = facts.checkpoints.refused, facts.checkpoints.error, policy.deadlines
    assert generation.last_exit_at is not None and error is not None
    if refused is None or now - generation.last_exit_at > deadlines.commit_checkpoint_s:
        raise error
    if now - refused.at < deadlines.storage_retry_s:
        return without_last_save(facts, policy)
    return (CommitCheckpoint(refused.step, generation.number, refused.parts),)


def _refuse_late_commit(generation: Generation, deadlines: Deadlines, now: float) -> None:
    assert generation.last_exit_at is not None, "all workers are done"
    if now - generation.last_exit_at > deadlines.commit_checkpoint_s:
        limit = deadlines.words("commit_checkpoint_s")
        raise LaunchError(
            f"the last checkpoint has not been committed: the controller waited {limit}"
        )


# Recovering


def _begin_recovery(
    facts: RunFacts, generation: Generation, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """It is known who failed first: end the generation, say why, and what is done about it."""
    number = generation.number
    first, others = first_failure(generation.failures)
    found = with_advice(with_device(diagnose(first), facts, now), facts, policy)
    diagnosis = with_place(found, facts, policy)
    failure = _failure_of(facts, generation, diagnosis, now)
    budget = Budget(now, facts.checkpoints.committed_at)
    decision = decide(failure, policy.job.fault, facts.history, budget)
    followed_by = itertools.chain.from_iterable(failure.workers for failure in others)
    died = [Record(events.WorkerDied.of(number, diagnosis))] if diagnosis.worker else []
    diagnosed = events.FailureDiagnosed.of(number, diagnosis, tuple(followed_by))
    told = Reserve(facts, policy, now).remedy(decision, diagnosis.kind)
    again = facts.recomputation.untold
    was_stopping = facts.stop is not None
    recovering = Recovering(diagnosis, decision, Stage.WORKERS_END, now, was_stopping)
    leaving = who_leaves(generation, decision, was_stopping)
    # The others leave at once: they would wait for the dead one until their own deadline, and what
    # they said meanwhile would hide the cause.
    return (
        *([] if again is None else [Record(again)]),
        *died,
        EndGeneration(number, diagnosis, leaving),
        Enter(recovering),
        Record(diagnosed),
        Record(events.RecoveryDecided.of(number, told)),
        *put_aside(facts, policy, failure),
    )


def _failure_of(
    facts: RunFacts, generation: Generation, diagnosis: Diagnosis, now: float
) -> PastFailure:
    return PastFailure(generation.number, diagnosis, generation.has_stepped, facts.step, now)


def _recover(
    facts: RunFacts, state: Recovering, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """Have the old generation's workers leave it or end, then the run or the next generation, as
    was decided."""
    if state.stage is Stage.WORKERS_END:
        return _await_workers_end(facts, state, policy, now)
    relocation = Relocation(facts, state, policy, now)
    due = relocation.next_actions()
    if due or state.stage in (Stage.NODES, Stage.ROOM):
        return due
    try:
        return Preparation(facts, state, policy, now).next_actions()
    except DougongError as error:
        return relocation.answer(error)


def _await_workers_end(
    facts: RunFacts, state: Recovering, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    assert facts.generation is not None
    parting = Parting(facts, facts.generation, state.since, policy.deadlines, now)
    if not parting.is_over:
        return parting.kill_late()
    ends = facts.stop is not None or state.decision.action == "fail"
    if not ends and now - state.since < state.decision.pause_s:
        return ()
    withdrawn = () if ends else lose_withdrawn(facts)
    if withdrawn:
        return withdrawn
    done: tuple[Action, ...] = (*parting.left_behind(), ForgetParts())
    if ends and _is_committing(facts, state, policy, now):
        return ()
    if state.decision.action == "fail":
        return done + _end(_defeat(facts, state.decision.reason))
    if facts.stop is not None and state.diagnosis is not None:
        return done + _end(Outcome("STOPPED", facts.stop.status))
    return done + _begin_restart(facts, state, policy, now)


def _is_committing(facts: RunFacts, state: Recovering, policy: RunPolicy, now: float) -> bool:
    """Whether a checkpoint that was whole before the failure is still being committed: the run's
    end must not cost it."""
    waits = now - state.since <= policy.deadlines.commit_checkpoint_s
    return waits and facts.checkpoints.num_open > 0


def _begin_restart(
    facts: RunFacts, state: Recovering, policy: RunPolicy, now: float
) -> tuple[Action, ...]:
    """On to the next generation, with the agents that were lost laid out and started anew."""
    if facts.agents.lost:
        return Relocation(facts, state, policy, now).seek()
    if state.diagnosis is None:
        return Relocation(facts, state, policy, now).grow()
    following = replace(state, stage=Stage.CHECKPOINT, since=now)
    return Preparation(facts, state, policy, now).enter(following)


# Ending


def _end(outcome: Outcome) -> tuple[Action, ...]:
    return (Enter(Ended(outcome)),)


def _fail(facts: RunFacts, state: State, error: DougongError) -> tuple[Action, ...]:
    """The end by an error: in a recovery, agents that do not come back are the end of what began
    with a worker's failure."""
    if isinstance(state, Recovering) and state.stage in _OF_AGENTS and facts.history:
        reason = f"its agent cannot be started again: {error}"
        decided = events.RecoveryDecided.of(facts.number, Remedy("fail", reason), again=True)
        return Record(decided), *_end(_defeat(facts, reason))
    return _end(Outcome.failed(error, facts.has_begun))


def _defeat(facts: RunFacts, reason: str) -> Outcome:
    """The end of a run that could not recover; its error names the failure that it did not get
    over."""
    cause = cause_of_end(facts.history)
    error = WorkerError(f"{words_of_end(facts.history)}; {reason}")
    return Outcome("FAILED", 1, error, cause.diagnosis, cause.generation)
