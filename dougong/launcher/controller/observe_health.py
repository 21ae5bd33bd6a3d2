"""Observe the run's health: what is suspected, what of it was nothing, and who is given up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dougong.control.messages import DevicesRead
from dougong.control.path_messages import CONTROLLER
from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.culprit import Culprit
from dougong.fault.devices import unusable
from dougong.fault.liveness import silence_reason
from dougong.fault.observation import AgentLost, LinkCut
from dougong.fault.reach import Reach
from dougong.fault.suspicion import Suspicion, WorkerView, of_fork_server
from dougong.fault.watch import Noticed
from dougong.launcher.controller.actions import Record, TryMachine
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.planner.placement import devices_held, devices_of
from dougong.records import events


def observe_agents(facts: RunFacts, now: float, deadlines: Deadlines) -> tuple[TryMachine, ...]:
    """In every state of the run: machines of silent agents are tried, and an agent that has been
    silent for `agent_silence_s` is lost."""
    facts.agents.note_look(now)
    for handle in facts.agents.silent(now, deadlines):
        agent = Culprit("agent", handle.spec.name)
        lost = AgentLost(agent, silence_reason(deadlines, handle.answers), (), is_silent=True)
        facts.lose_by(handle, lost, now)
    due = []
    for handle in facts.agents.living:
        is_silent = facts.agents.silent_s(handle, now) > DEADLINES.agent_mute_s
        if is_silent and now - handle.tried_at > deadlines.node_probe_s:
            due.append(TryMachine(handle.spec.name))
        if not is_silent:
            handle.answers = None  # what was found of an earlier silence is old
    return tuple(due)


def observe_health(facts: RunFacts, now: float, deadlines: Deadlines) -> tuple[Record, ...]:
    """Look at everybody, while a generation trains. Who has held up the others for too long has
    failed from now on; everything else is only told."""
    generation = facts.generation
    if generation is None or generation.has_ended or generation.first_failure_at is not None:
        return ()
    views = generation.views(now)
    found = _reach(facts, views, now, deadlines).suspicions()
    of_devices = facts.devices.watch.suspicions(now)
    of_servers = _of_fork_servers(facts, now, deadlines)
    noticed = facts.health.look(views, (*found, *of_devices, *of_servers), deadlines)
    for due in noticed.due:
        if due.agents:
            _lose(facts, due, now)
        else:
            generation.note_hung(due, now)
    for blame in facts.devices.watch.unusable(now):
        generation.note_device(blame.failure(now), now)
    return tuple(_news(facts, noticed))


def observe_devices(
    facts: RunFacts, handle: AgentHandle, read: DevicesRead, now: float
) -> tuple[Record, ...]:
    """What an agent's devices tell of themselves."""
    name, news = handle.spec.name, list(_observe_reserve(facts, handle, read, now))
    if read.problem and facts.devices.watch.note_problem(name, read.problem):
        text = f"agent {name}: how its devices are is not known: {read.problem}"
        news.append(Record(events.WarningRaised(generation=facts.number, text=text)))
    for worker, device in devices_of(handle.spec).items():
        reading = read.readings.get(device)
        if reading is None:
            continue
        culprit = Culprit("device", reading.key, facts.agents.node_of(worker, ""))
        for text in facts.devices.watch.note(culprit, worker, reading, now):
            news.append(Record(events.NoteTaken(generation=facts.number, text=text)))
    return tuple(news)


def _observe_reserve(
    facts: RunFacts, handle: AgentHandle, read: DevicesRead, now: float
) -> Iterator[Record]:
    """An agent that stands by must not wait with a device that nobody can use."""
    if not handle.spec.stands_by or handle.lost is not None:
        return
    for device in devices_held(handle.spec):
        reading = read.readings.get(device)
        fault = None if reading is None else unusable(reading)
        if reading is None or fault is None:
            continue
        event = events.DeviceQuarantined(
            generation=facts.number,
            worker=handle.spec.name,
            accelerator=handle.spec.accelerator,
            key=reading.key,
            node=facts.listed_name(handle),
            why=str(fault),
        )
        yield Record(event)
        facts.lose(handle, f"its device {reading.key}: {fault}", now)


def _reach(facts: RunFacts, views: Sequence[WorkerView], now: float, deadlines: Deadlines) -> Reach:
    agents = facts.agents.views(now, facts.machine_of)
    hearings = {CONTROLLER: facts.agents.hearing}
    for agent in agents:
        if not agent.is_silent:
            hearings[agent.name] = facts.agents[agent.name].hearing
    here = facts.paths.own_end.machine if facts.paths.own_end is not None else CONTROLLER
    still_s = min((view.signs.still_s for view in views if view.is_seen), default=None)
    return Reach(agents, hearings, here, still_s, deadlines)


def _of_fork_servers(facts: RunFacts, now: float, deadlines: Deadlines) -> Iterator[Suspicion]:
    for handle in facts.agents.living:
        # Of an agent that is not heard, all that is known is old.
        if facts.agents.silent_s(handle, now) <= DEADLINES.agent_mute_s:
            found = of_fork_server(handle.spec.name, handle.fork_server, deadlines)
            if found is not None:
                yield found


def _lose(facts: RunFacts, due: Suspicion, now: float) -> None:
    """The agents that a suspicion gives up are lost."""
    reason = f"{due.why}, and was given up after {due.limit}"
    latency_s = round(due.since_s, 3)
    kind = LinkCut if due.culprit.kind == "link" else AgentLost
    failure = kind(due.culprit, reason, (), evidence=due.evidence, latency_s=latency_s)
    if isinstance(failure, AgentLost):
        failure = replace(failure, is_silent=True)
    for name in due.agents:
        facts.lose_by(facts.agents[name], failure, now)


def _news(facts: RunFacts, noticed: Noticed) -> list[Record]:
    news: list[Record] = []
    for begun in noticed.begun:
        placed = replace(begun, culprit=_placed(facts, begun.culprit))
        news.append(Record(events.Suspected.of(facts.number, placed)))
    for culprit, seconds in noticed.ended:
        ended = events.SuspicionEnded(
            generation=facts.number, culprit=_placed(facts, culprit), seconds=round(seconds, 3)
        )
        news.append(Record(ended))
    return news


def _placed(facts: RunFacts, culprit: Culprit) -> Culprit:
    """With its machine, where that is one of several."""
    if culprit.kind in ("agent", "fork_server"):
        node = facts.agents.node_of_agent(facts.agents[culprit.name], "")
        return replace(culprit, node=node)
    worker = culprit.worker
    return replace(culprit, node=facts.agents.node_of(worker, "")) if worker else culprit


def tell_own_pause(
    myself: Culprit, number: int, paused_s: float, deadlines: Deadlines
) -> tuple[Record, ...]:
    """A controller that has done nothing for longer than anybody else may has hung, and goes on:
    whoever looks at the run wants to know why nothing was told meanwhile. `number`: of the
    generation."""
    diagnosed = events.FailureDiagnosed(
        generation=number,
        node=myself.node,
        culprit=myself,
        failure="hang",
        cause=f"did nothing for {paused_s:.1f} s: it was stopped, or its machine was held up",
        latency_s=round(paused_s, 3),
    )
    limit = deadlines.words("controller_silence_s")
    reason = f"it goes on; agents bear its silence for {limit}"
    decided = events.RecoveryDecided(generation=number, action="ignore", reason=reason)
    return (Record(diagnosed), Record(decided))


def suspect_words(facts: RunFacts) -> tuple[str, ...]:
    """What seems to hold up the run, one line each."""
    if facts.generation is None or facts.generation.has_ended:
        return ()
    words = []
    for one in facts.health.present:
        words.append(f"{_placed(facts, one.culprit)}: {one.why} for {one.since_s:.1f} s")
    return tuple(words)


def health_words(facts: RunFacts, now: float) -> dict[str, str]:
    """By worker of the present generation: how it is, in a few words."""
    if facts.generation is None or facts.generation.has_ended:
        return {}
    return {view.name: facts.health.health(view) for view in facts.generation.views(now)}
