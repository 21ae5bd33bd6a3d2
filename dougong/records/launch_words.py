"""The options by which a run reaches its machines, for every command that is suggested."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dougong.errors import RecordError, StorageError
from dougong.records.directory import RunDir
from dougong.records.events import Event, FirstStep, RunCreated

_PLACES = ("--no-ray", "--address")
"""Say where a run's machines are; without any of them it has a Ray of its own."""
_FLAGS = ("--no-ray", "--allow-open-cluster")
_VALUED = ("--address", "--wait")


def launch_words(events: Sequence[Event], typed: Sequence[str] = ()) -> tuple[str, ...]:
    """The options as a shell takes them. `typed`: the words of the command that is under way, which
    count first where they say where; then those of the run's newest controller that said where, or
    trained; then those of the one that began it."""
    if _names_place(typed):
        return tuple(_options(typed))
    found = _controller(events)
    if found is None:
        return tuple(_options(typed))
    if not found.address:
        return tuple(_options(found.command))
    others = _options(found.command, without="--address")
    return (f"--address {shlex.quote(found.address)}", *others)


def resume_command(path: Path, is_readable: bool = True) -> str:
    """What goes on with the run in `path`, as it would be typed now. Where its record is damaged,
    or not `is_readable`, by the options of the command that is under way."""
    events: Sequence[Event] = ()
    if is_readable:
        with contextlib.suppress(RecordError, StorageError):
            events = RunDir(path).read_events()
    words = ("dougong", "resume", shlex.quote(str(path)))
    return " ".join((*words, *launch_words(events, sys.argv[1:])))


def _controller(events: Sequence[Event]) -> RunCreated | None:
    """Whose options count; None where there has been no controller."""
    found: RunCreated | None = None
    newest: RunCreated | None = None
    for event in events:
        if isinstance(event, RunCreated):
            newest = event
            if found is None or event.address or _names_place(event.command):
                found = event
        elif isinstance(event, FirstStep):
            found = newest
    return found


def _names_place(words: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in _PLACES for word in words)


def _options(words: Sequence[str], without: str = "") -> Iterator[str]:
    """Those among a command's words, in its order."""
    for number, word in enumerate(words):
        name, has_value, _ = word.partition("=")
        if name == without:
            continue
        if word in _FLAGS or (name in _VALUED and has_value):
            yield shlex.quote(word)
        elif word in _VALUED:
            yield shlex.join(words[number : number + 2])
