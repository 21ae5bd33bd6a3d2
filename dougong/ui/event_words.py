"""Words of events that take some lines to make: decisions, storage that refuses or does not answer,
links, agents that stand by, steps that are given up, left out or computed again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from dougong.parallel.bridge.measured import links_in_words
from dougong.records.event.reserve import (
    ReserveEvent,
    RunGrown,
    RunShrunk,
    SpareLost,
    SpareShort,
    SpareStands,
    SpareTook,
)
from dougong.records.events import (
    Event,
    GenerationStarted,
    LinksMeasured,
    Recovered,
    StepGivenUp,
    StepSkipped,
    StepsRecomputed,
    StorageAnswered,
    StorageTroubled,
)
from dougong.storage.trouble import Trouble
from dougong.ui.formatting import duration, plural, size, step_range, worker_list

_WINDOWS_NAMED = 6
_TIERS = {
    "own": "own memory",
    "peer": "a peer's memory",
    "disk": "local disk",
    "checkpoint": "the checkpoint",
}
_MEASURES = {
    "restart": "restart the worker",
    "replace_by_spare": "replace by a spare",
    "replace_node": "replace the node",
    "quarantine": "quarantine the device",
    "fail": "stop",
}
"""Decisions that their names alone do not say."""


def link_words(events: Iterable[Event]) -> str:
    """What the links between islands gave when they were last tried; empty where none was."""
    found = [event for event in events if isinstance(event, LinksMeasured)]
    return f"links: {links_in_words(found[-1].links, found[-1].copies)}" if found else ""


def measure_words(action: str) -> str:
    """What is decided about a fault, in words."""
    return _MEASURES.get(action, action.replace("_", " "))


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
            return "warning", _shrunk_words(event)
        case RunGrown():
            workers = worker_list(event.workers)
            return "good", f"back to {plural(event.now, 'worker')}: [{workers}] join the others"
        case _:
            raise AssertionError(f"an event of kind {event.kind} has no sentence")


def _shrunk_words(event: RunShrunk) -> str:
    who = f"{event.now} of {plural(event.before, 'worker')}"
    text = f"the run goes on with {who}, without [{worker_list(event.missing)}]"
    return f"{text}: {event.reason}; the bits stay the same"


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


# Storage


def trouble_words(event: StorageTroubled) -> str:
    """Who cannot write what, and what becomes of it."""
    parts = [f"{_writer(event)}{event.what} cannot be written: {event.reason}"]
    if event.kept:
        parts.append(f"kept in memory: {_listed(event.kept)}")
    if event.dropped:
        parts.append(f"dropped: {_listed(event.dropped)}")
    return "; ".join(parts)


def healed_words(event: StorageAnswered) -> str:
    """That it is over, and what was lost by it."""
    start = f"{_writer(event)}{event.what} can be written again, after {duration(event.seconds)}"
    return f"{start}; lost: {_listed(event.dropped)}" if event.dropped else f"{start}; none is lost"


def unwritten_words(trouble: Trouble) -> str:
    """What a run that ends has not written down, and never will."""
    counts = dict(trouble.kept)
    for name, number in trouble.dropped:
        counts[name] = counts.get(name, 0) + number
    reason = f"{trouble.what} cannot be written: {trouble.reason}"
    return f"{reason}; never written: {_listed(counts)}" if counts else reason


class OpenTroubles:
    """The troubles that are not over, by their events."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str], StorageTroubled] = {}

    def note(self, event: Event) -> None:
        """One more event, in their order. With a generation its writers end: who lives tells it
        again."""
        match event:
            case StorageTroubled():
                # Another reason is news, and not another beginning.
                first = self._open.get(_key(event), event)
                update = {"monotonic_s": first.monotonic_s}
                self._open[_key(event)] = event.model_copy(update=update)
            case StorageAnswered():
                self._open.pop(_key(event), None)
            case GenerationStarted():
                self._open = {key: told for key, told in self._open.items() if key[:2] == ("", "")}

    def lines(self) -> list[str]:
        """One for each."""
        return [trouble_words(event) for event in self._open.values()]

    def words(self, monotonic_s: float) -> str:
        """All of them and how long they last by now; empty for none."""
        told = []
        for event in self._open.values():
            lasts = duration(monotonic_s - event.monotonic_s)
            told.append(f"{trouble_words(event)} (for {lasts})")
        return "; ".join(told)


def _key(event: StorageTroubled | StorageAnswered) -> tuple[str, str, str]:
    return event.worker, event.agent, event.what


def _writer(event: StorageTroubled | StorageAnswered) -> str:
    if event.worker:
        return f"[{event.worker}] "
    return f"agent {event.agent}: " if event.agent else ""


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} of {name}" for name, number in counts.items())


def again_words(event: StepsRecomputed) -> str:
    """Whether they have the bits that they had."""
    if event.differs_from is None:
        return f"{step_range(event.first, event.last)} computed again: the same bits"
    text = (
        f"step {event.last} computed again: other bits than in generation {event.differs_from} "
        f"(ledger {event.then[:12]} then, {event.now[:12]} now)"
    )
    if event.last > event.first:
        text += f"; {step_range(event.first, event.last - 1)}: the same bits"
    return text


def skipped_words(event: StepSkipped) -> str:
    """Which step has moved no weight, why, and what it was computed on."""
    numbers = f"loss {event.loss:.6g}, gradient norm {event.grad_norm:.6g}"
    text = (
        f"step {event.step} skipped ({numbers}), {event.in_a_row} in a row; no weight has moved: "
        f"{event.where}"
    )
    if event.first_sample is not None:
        text += f"; samples {event.first_sample} to {event.last_sample}"
    if event.windows:
        shown = ", ".join(str(window) for window in event.windows[:_WINDOWS_NAMED])
        more = len(event.windows) - _WINDOWS_NAMED
        text += f", not finite on windows {shown}" + (f" and {more} more" if more > 0 else "")
    return text


def tier_words(tiers: Mapping[str, int]) -> str:
    """How many bytes came from where, such as `own memory 12 MB, a peer's memory 6 MB`."""
    return ", ".join(f"{_TIERS.get(name, name)} {size(count)}" for name, count in tiers.items())


def recovered_words(event: Recovered) -> str:
    """From where it went on, and what took how long."""
    tiers = f" ({tier_words(event.tiers)})" if event.tiers else ""
    start = f"went on from step {event.step}{tiers}" if event.step else "began anew"
    told = [("noticed", event.noticed_s), ("decided", event.decided_s), ("left", event.left_s)]
    told += [("begun", event.begun_s), ("first step", event.first_step_s)]
    times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in told)
    kept, forked = plural(len(event.kept), "worker"), len(event.forked)
    text = f"recovered from the failure of generation {event.failed}: {start}; {times} after the"
    return f"{text} fault; {kept} kept, {forked} forked"
