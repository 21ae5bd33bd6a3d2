"""What is looked at when agents have joined, before anything is asked of them, and what a person is
told of it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from dougong.launcher.agent.remarks import remarks_on_machines, remarks_on_memory
from dougong.launcher.controller.actions import Record
from dougong.launcher.controller.agents import AgentHandle
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.observe import warning
from dougong.parallel.plan import Inventory, Plan
from dougong.planner.agreement import check_agents
from dougong.records import events
from dougong.remarks import Remarks


def look_at_agents(
    facts: RunFacts, policy: RunPolicy, new: Sequence[AgentHandle]
) -> tuple[Record, ...]:
    """That all agents are there, and what is remarkable about the machines of the `new` ones.

    LaunchError when they do not run the same software, or do not share the run directory.
    """
    known = facts.agents.facts
    check_agents(known, policy.software)
    described = []
    for name, said in known.items():
        fields = dataclasses.asdict(said)
        described.append(events.StartedAgent(**fields, address=facts.agents[name].address))
    event = events.AgentsStarted(generation=facts.number, agents=tuple(described))
    nodes = dict.fromkeys(known[handle.spec.name].node for handle in new)
    remarks = remarks_on_machines(facts.agents.joined, nodes)
    return (Record(event), *tell(facts, remarks))


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
