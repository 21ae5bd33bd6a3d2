"""Drills that the controller orders: those of the job file that are no worker's own, and those that
`dougong drill` asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dougong.control.messages import Acknowledged, InflictFault, OrderDrill, RequestRefused
from dougong.fault.drill import FiredDrill, identity, is_own, pending
from dougong.fault.policy import Budget
from dougong.job.drills.drill import ALLOWED, Drill, listed
from dougong.job.drills.vocabulary import FAULTS, has_worker, known_fault
from dougong.launcher.controller.actions import Action, CloseChannel, FireDrill, Record, TakeOrder
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.generation import Generation
from dougong.launcher.controller.states import Running, State
from dougong.records import events


def fired_by(event: events.DrillFired) -> tuple[FiredDrill, ...]:
    """The drill of the job file that an event tells of; none where a command ordered it."""
    if event.by_command:
        return ()
    at_step = event.step if event.after_s is None else None
    return (FiredDrill(event.action, event.worker, at_step, event.after_s),)


def due_drills(facts: RunFacts, state: State, policy: RunPolicy, now: float) -> tuple[Action, ...]:
    """The answers to clients that ask for drills, and what is due of the job file's own."""
    return (*_answers(facts, state, policy, now), *_ordered_by_job(facts, state, policy, now))


def _training(facts: RunFacts, state: State) -> Generation | None:
    """The generation that trains; None while none does."""
    generation = facts.generation
    if not isinstance(state, Running) or generation is None or generation.failures:
        return None
    return generation if generation.has_stepped else None


def _fire(
    facts: RunFacts, generation: Generation, order: OrderDrill, drill: Drill | None
) -> tuple[Record, FireDrill]:
    """Announce it, then have it done."""
    event = events.DrillFired(
        generation=generation.number,
        worker=order.worker,
        step=drill.at_step if drill is not None and drill.at_step else facts.step + 1,
        action=order.fault,
        after_s=None if drill is None else drill.after_s,
        by_command=drill is None,
        for_s=order.for_s,
    )
    message = InflictFault(generation.number, order.worker, order.fault, order.for_s)
    fired = None if drill is None else identity(drill)
    agent = _agent_of(facts, order.worker) if has_worker(order.fault) else None
    return Record(event), FireDrill(agent, message, fired)


def _agent_of(facts: RunFacts, worker: str) -> str:
    handle = facts.agents.of_worker(worker)
    assert handle is not None, "a worker of the plan has an agent"
    return handle.spec.name


# The job file's


def _ordered_by_job(
    facts: RunFacts, state: State, policy: RunPolicy, now: float
) -> Iterator[Action]:
    generation = _training(facts, state)
    if generation is None:
        return
    for drill in pending(listed(policy.job.drill), facts.fired):
        if _can_come(drill, generation, policy) and _is_due(drill, facts, now):
            order = OrderDrill(drill.what, drill.worker, drill.for_s)
            yield from _fire(facts, generation, order, drill)
            return  # the next one with the next look: this one may end the generation


def _can_come(drill: Drill, generation: Generation, policy: RunPolicy) -> bool:
    """Whether somebody is there to whom it can happen, and the run gets over it."""
    if not has_worker(drill.what):
        return policy.is_followed
    return drill.worker in generation.workers


def _is_due(drill: Drill, facts: RunFacts, now: float) -> bool:
    if is_own(drill):
        return False
    if drill.at_step is not None:
        return facts.step >= drill.at_step - 1
    assert drill.after_s is not None, "the job's rules ask for one of the two"
    return facts.first_step_at is not None and now - facts.first_step_at >= drill.after_s


# A client's


def _answers(facts: RunFacts, state: State, policy: RunPolicy, now: float) -> Iterator[Action]:
    for order in facts.orders[:1]:
        yield TakeOrder(order)
        refusal = _why_not(order.message, facts, state, policy)
        if refusal is None:
            refusal = _why_too_many(order.message, facts, policy, now)
        if refusal is not None:
            trains_later = policy.job.drill == ALLOWED and _training(facts, state) is None
            yield CloseChannel(order.channel, RequestRefused(refusal, trains_later))
            return
        generation = _training(facts, state)
        assert generation is not None, "it would have been refused"
        told, done = _fire(facts, generation, order.message, None)
        yield told
        yield CloseChannel(order.channel, Acknowledged())  # the controller may be the victim
        yield done


_UNFOLLOWED = (
    "no command stays beside this controller that would begin another one, so the run would end; "
    "resume it with `dougong resume`, on Linux"
)


def _why_not(order: OrderDrill, facts: RunFacts, state: State, policy: RunPolicy) -> str | None:
    """Why a client's drill is refused, and what to do instead."""
    if policy.job.drill != ALLOWED:
        return (
            "the job file does not say `drill: allowed`, so that nobody rehearses faults on this "
            "run; stop it and resume it with `-o drill=allowed`"
        )
    fault = known_fault(order.fault)
    if fault is None:
        known = ", ".join(fault.name for fault in FAULTS if not fault.refusal)
        return f"no fault is called {order.fault!r}; there are {known}"
    if fault.refusal:
        return f"{fault.name} cannot be ordered here: {fault.does}; {fault.refusal}"
    generation = _training(facts, state)
    if generation is None:
        return f"the run is not training ({state.name.lower()}): ask again when it has done a step"
    if not has_worker(order.fault):
        return None if policy.is_followed else _UNFOLLOWED
    if order.worker not in generation.workers:
        known = ", ".join(generation.workers)
        return f"no worker is called {order.worker!r}; there are {known}"
    return None


def _why_too_many(order: OrderDrill, facts: RunFacts, policy: RunPolicy, now: float) -> str | None:
    """Why a drill that is refused for nothing else would end the run."""
    fault, most = known_fault(order.fault), policy.job.fault.max_restarts
    spent = Budget(now, facts.checkpoints.committed_at).spent(facts.history)
    ends_none = fault is None or not fault.must_be_named or fault.target == "fork_server"
    if ends_none or spent < most:
        return None
    return (
        f"fault.max_restarts is {most} and they are used up: this would end the run; raise it "
        "with a resume"
    )
