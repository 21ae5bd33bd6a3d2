"""Observe the run's health: what is suspected, what of it was nothing, and who is given up."""

from __future__ import annotations

from dataclasses import replace

from dougong.deadlines import Deadlines
from dougong.fault.culprit import Culprit
from dougong.launcher.controller.actions import Record
from dougong.launcher.controller.facts import RunFacts
from dougong.records import events


def observe_health(facts: RunFacts, now: float, deadlines: Deadlines) -> tuple[Record, ...]:
    """Look at all workers of a generation that trains. Who has held up the others for too long has
    failed from now on; everything else is only told."""
    generation = facts.generation
    if generation is None or generation.has_ended or generation.first_failure_at is not None:
        return ()
    noticed = facts.health.look(generation.views(now), (), deadlines)
    news: list[Record] = []
    for begun in noticed.begun:
        placed = replace(begun, culprit=_placed(facts, begun.culprit))
        news.append(Record(events.Suspected.of(generation.number, placed)))
    for culprit, seconds in noticed.ended:
        ended = events.SuspicionEnded(
            generation=generation.number,
            culprit=_placed(facts, culprit),
            seconds=round(seconds, 3),
        )
        news.append(Record(ended))
    for due in noticed.due:
        generation.note_hung(due, now)
    return tuple(news)


def _placed(facts: RunFacts, culprit: Culprit) -> Culprit:
    """With its machine, where that is one of several."""
    if not culprit.worker:
        return culprit
    return replace(culprit, node=facts.agents.node_of(culprit.worker, ""))


def health_words(facts: RunFacts, now: float) -> dict[str, str]:
    """By worker of the present generation: how it is, in a few words."""
    if facts.generation is None or facts.generation.has_ended:
        return {}
    return {view.name: facts.health.health(view) for view in facts.generation.views(now)}
