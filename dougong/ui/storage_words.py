"""What is said of storage that refuses or does not answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dougong.records.events import Event, GenerationStarted, StorageAnswered, StorageTroubled
from dougong.storage.trouble import Trouble
from dougong.ui.formatting import duration


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
