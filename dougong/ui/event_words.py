"""Sentences of events that take some lines to make. Pure."""

from __future__ import annotations

from typing import Literal

from dougong.records.event.reserve import (
    ReserveEvent,
    RunGrown,
    RunShrunk,
    SpareLost,
    SpareShort,
    SpareStands,
    SpareTook,
)
from dougong.records.events import StepGivenUp
from dougong.ui.formatting import plural, worker_list


def reserve_words(event: ReserveEvent) -> tuple[Literal["info", "good", "warning"], str]:
    """Agents that stand by, and a run that goes on with fewer workers and comes back: how good that
    is, and one sentence."""
    match event:
        case SpareStands():
            return "info", f"{event.agent} on {event.node} stands by"
        case SpareLost():
            text = f"{event.agent} on {event.node} stands by no more: {event.reason}"
            return "warning", f"{text}; training goes on, and another one is sought"
        case SpareShort():
            return "warning", f"{event.text}; training goes on, and room is looked for again"
        case SpareTook():
            who, workers = f"{event.agent} on {event.node}", worker_list(event.workers)
            return "good", f"{who} takes the place of agent {event.place}, with [{workers}]"
        case RunShrunk():
            who = f"{event.now} of {plural(event.before, 'worker')}"
            text = f"the run goes on with {who}, without [{worker_list(event.missing)}]"
            return "warning", f"{text}: {event.reason}; the bits stay the same"
        case RunGrown():
            workers = worker_list(event.workers)
            return "good", f"back to {plural(event.now, 'worker')}: [{workers}] join the others"
        case _:
            raise AssertionError(f"an event of kind {event.kind} has no sentence")


def given_up_words(event: StepGivenUp) -> str:
    """That a run has been ended within its step, where its workers stood, and what is kept."""
    text = f"the step did not end: no worker has moved for {event.limit}"
    places: dict[str, list[str]] = {}
    for worker in event.workers:
        places.setdefault(f"{worker.phase} of step {worker.step}", []).append(worker.name)
    for place, names in places.items():
        text += f"; {worker_list(names)} in {place}"
    kept = f"kept is {event.checkpoint}" if event.checkpoint else "there is no checkpoint"
    return f"{text}; the run ends without it, {kept}"
