"""What is looked at when agents have joined, before anything is asked of them, and what a person is
told of it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dougong.accelerators.registry import get_accelerator
from dougong.checkpoint.directories import step_of
from dougong.control.handshake import AgentFacts
from dougong.control.messages import Message
from dougong.fault.diagnosis import Diagnosis
from dougong.fingerprint.record import Fingerprint
from dougong.job.schema import Job
from dougong.launcher.agent.answers import forms_of
from dougong.launcher.agent.here.open_files import refuse_workers
from dougong.launcher.agent.remarks import remarks_on_machines, remarks_on_memory
from dougong.launcher.controller.actions import Record, UseModel
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.launcher.controller.inbound.items import FoundCheckpoint
from dougong.parallel.plan import Inventory, Plan
from dougong.planner.agreement import check_agents
from dougong.planner.memory_advice import memory_advice
from dougong.planner.recipe import form_words
from dougong.records import events
from dougong.remarks import Remarks


def look_at_agents(
    facts: RunFacts, policy: RunPolicy, new: Sequence[AgentHandle]
) -> tuple[Record, ...]:
    """That all agents are there, and what is remarkable about the machines of the `new` ones.

    LaunchError when they do not run the same software, or do not share the run directory.
    """
    known = serving_facts(facts)
    check_agents(known, policy.software)
    num_workers = sum(handle.spec.num_workers for handle in facts.agents.serving)
    for said in known.values():
        refuse_workers(said.node, num_workers, said.limits.open_files)
    described = []
    for name, said in known.items():
        fields = dataclasses.asdict(said)
        described.append(events.StartedAgent(**fields, address=facts.agents[name].address))
    event = events.AgentsStarted(generation=facts.number, agents=tuple(described))
    nodes = dict.fromkeys(known[handle.spec.name].node for handle in new)
    remarks = remarks_on_machines(facts.agents.joined, nodes)
    return (Record(event), *tell(facts, remarks))


def serving_facts(facts: RunFacts) -> dict[str, AgentFacts]:
    """What the agents have said that have workers, by name."""
    said = {handle.spec.name: handle.facts for handle in facts.agents.serving}
    return {name: facts for name, facts in said.items() if facts is not None}


def look_at_memory(
    facts: RunFacts, policy: RunPolicy, inventory: Inventory, plan: Plan
) -> tuple[Record, ...]:
    """Warnings of nodes that have less memory free than the plan needs there."""
    remarks = remarks_on_memory(policy.job, inventory, plan, facts.agents.joined)
    return tuple(tell(facts, remarks))


def tell(facts: RunFacts, remarks: Remarks) -> Iterator[Record]:
    """Remarks as events of the newest generation."""
    for text in remarks.notes:
        yield Record(events.NoteTaken(generation=facts.number, text=text))
    for text in remarks.warnings:
        yield warning(facts, text)


def settle_forms(
    facts: RunFacts, job: Job, prints: Mapping[str, Fingerprint]
) -> Iterator[UseModel | Record]:
    """By what attention and experts are computed belongs to what the run is."""
    model = facts.model
    assert model is not None
    found = forms_of(job, model, prints, [handle.spec for handle in facts.agents.serving])
    if found != model:
        yield UseModel(found)
        yield from tell(facts, Remarks((form_words(found.recipe),)))


def warning(facts: RunFacts, text: str, *workers: str) -> Record:
    """A warning as an event of the newest generation, with the nodes of its workers where there are
    several."""
    text += facts.agents.on_nodes(workers)
    return Record(events.WarningRaised(generation=facts.number, text=text, workers=workers))


def rejected(facts: RunFacts, directory: str, reason: str, aside: Path | None = None) -> Record:
    """A damaged checkpoint as an event. `aside`: where it lies since."""
    event = events.CheckpointRejected(
        generation=facts.number,
        directory=directory,
        reason=reason,
        aside="" if aside is None else str(aside),
    )
    return Record(event)


def remarks_on(facts: RunFacts, found: FoundCheckpoint) -> list[Record]:
    """What is told of a search for a checkpoint."""
    damaged = [rejected(facts, one.name, one.reason, one.aside) for one in found.rejected]
    return damaged + [warning(facts, text) for text in found.warnings]


def unknown(message: Message) -> str:
    return f"unknown message kind {message.kind!r} at this place; it is ignored"


def set_aside(facts: RunFacts, found: FoundCheckpoint) -> list[Record]:
    """Checkpoints that the run goes on without as an event, if there are any."""
    if found.aside is None:
        return []
    step = 0 if found.directory is None else step_of(found.directory)
    event = events.CheckpointsSetAside(
        generation=facts.number, step=step or 0, names=found.moved, folder=str(found.aside)
    )
    return [Record(event)]


def with_place(diagnosis: Diagnosis, facts: RunFacts, policy: RunPolicy) -> Diagnosis:
    """With the machine of the culprit, where it is one of several."""
    culprit = diagnosis.culprit
    match culprit.kind:
        case "worker":
            node = facts.agents.node_of(culprit.name, policy.host)
        case "agent" | "fork_server":
            node = facts.agents.node_of_agent(facts.agents[culprit.name], policy.host)
        case _:
            node = culprit.node
    return replace(diagnosis, culprit=replace(culprit, node=node))


def with_advice(diagnosis: Diagnosis, facts: RunFacts, policy: RunPolicy) -> Diagnosis:
    """An out-of-memory is answered with what the plan says of the worker's bytes."""
    if diagnosis.kind != "out_of_memory" or facts.plan is None or facts.model is None:
        return diagnosis
    worker = facts.plan.worker(diagnosis.culprit.worker)
    shared = get_accelerator(worker.device.partition(":")[0]).shares_machine
    handle = facts.agents.of_worker(worker.name)
    known = handle.facts.memory_bytes if handle is not None and handle.facts is not None else None
    inventory = facts.model.inventory
    advice = memory_advice(policy.job, inventory, facts.plan, worker.name, known, shared)
    return replace(diagnosis, cause=f"{diagnosis.cause}; {advice}")


def moved_workers(before: Plan | None, now: Plan) -> tuple[events.MovedWorker, ...]:
    """The workers that are on another node than under the plan `before`, if there was one and they
    were in it."""
    if before is None:
        return ()
    places = {worker.name: worker.node for worker in before.workers}
    moved = []
    for worker in now.workers:
        node = places.get(worker.name, worker.node)
        if node != worker.node:
            moved.append(events.MovedWorker(worker=worker.name, before=node, now=worker.node))
    return tuple(moved)
