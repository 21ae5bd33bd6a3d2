"""How the workers are, told in a line however many they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.records.status import Goodput, WorkerState
from dougong.ui.formatting import duration, plural, worker_list
from dougong.ui.goodput.meter import PARTS, WORDS

_SUSPECT = "suspect: "
_UNHEARD = "not seen"
_SHOWN_PARTS = 3
_LEAST_SHARE = 0.005
"""What takes less of the time is not named."""


def health_of(worker: WorkerState) -> str:
    """In a word. To wait for a peer is what healthy workers do most: who holds up the others is
    suspected."""
    if not worker.alive:
        return "starting" if worker.pid is None else "ended"
    if worker.health.startswith(_SUSPECT):
        return "suspected"
    return "not heard" if worker.health.startswith(_UNHEARD) else "running"


def workers_words(workers: Sequence[WorkerState]) -> str:
    """Such as `1 suspected (west/3), 255 running`: those that are well come last, and are named
    where they are all of them."""
    names: dict[str, list[str]] = {}
    for worker in workers:
        names.setdefault(health_of(worker), []).append(worker.name)
    if len(names) == 1:
        (word,) = names
        return f"{len(workers)} {word} ({worker_list(names[word])})"
    well = len(names.pop("running", ()))
    told = [f"{len(those)} {word} ({worker_list(those)})" for word, those in names.items()]
    return ", ".join([*told, f"{well} running"] if well else told)


def goodput_words(goodput: Goodput) -> str:
    """The share of the time that counts, what the most of the rest went to, and the steps that had
    to be computed again; empty before any time went by."""
    if goodput.share is None:
        return ""
    words = f"{percent(goodput.share)} of {duration(goodput.wall_s)}"
    if goodput.steps_lost or goodput.steps_again:
        words += f", {lost_words(goodput)}"
    rest = {part: goodput.parts.get(part, 0.0) / goodput.wall_s for part in PARTS[1:]}
    largest = sorted(rest, key=lambda part: -rest[part])[:_SHOWN_PARTS]
    told = [f"{WORDS[p]} {percent(rest[p])}" for p in largest if rest[p] >= _LEAST_SHARE]
    return f"{words} ({', '.join(told)})" if told else words


def lost_words(goodput: Goodput) -> str:
    """How many steps were lost, and how many of them are done again."""
    lost, again = goodput.steps_lost, goodput.steps_again
    if lost > again:
        return f"{plural(lost, 'step')} lost, {again} of them computed again"
    return f"{plural(again, 'step')} computed again" if again else "no step lost"


def percent(share: float) -> str:
    """`93.1 %`; never 100 where something is missing."""
    shown = f"{100 * share:.1f}"
    return "99.9 %" if shown == "100.0" and share < 1 else f"{shown} %"
