"""What a run's events tell of its ends: a finished run stays finished when a later resume comes to
nothing, and workers may hold what a run has come to that has lost its controller; and how the run
reaches its machines, for the commands that are suggested.

Such a resume has recorded that it began, and how it ended; it has trained no step, job.yaml is as
it was, and every checkpoint lies where it lay.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dougong.errors import RecordError, StorageError
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    CheckpointsSetAside,
    Event,
    FirstStep,
    GenerationStarted,
    RecoveryDecided,
    RunCreated,
    RunEnded,
)
from dougong.records.status import FINAL_STATES, RunStatus

_PLACES = ("--no-ray", "--address")
"""Say where a run's machines are; without any of them it has a Ray of its own."""
_FLAGS = ("--no-ray", "--allow-open-cluster")
_VALUED = ("--address", "--wait")
_OVERRIDE = "-o"
_OVERRIDES = (_OVERRIDE, "--override")
_CHANGES = (FirstStep, CheckpointCommitted, CheckpointsSetAside)
"""With these a resume has gone on."""


def finish_before(events: Sequence[Event]) -> RunEnded | None:
    """The finish of a run with which every later controller has come to nothing; None for a run
    that has not finished, or that has gone on, or has had no controller since, or whose last
    checkpoint was found to be damaged."""
    finish: RunEnded | None = None
    since: list[Event] = []
    for event in reversed(events):
        if isinstance(event, RunEnded) and event.kind == "finished":
            finish = event
            break
        since.append(event)
    if finish is None or not any(isinstance(event, RunCreated) for event in since):
        return None
    if any(isinstance(event, _CHANGES) for event in since):
        return None
    rejected = {event.directory for event in since if isinstance(event, CheckpointRejected)}
    return None if _last_checkpoint(events) in rejected else finish


def newest_generation(events: Iterable[Event]) -> int | None:
    """The generation whose workers alone hold what the run has come to; None: what is in memory
    does not count, as the run has ended, or was to go back to a checkpoint. A controller that came
    to no generation has changed nothing by its end."""
    newest, fence = None, 0
    for event in events:
        match event:
            case GenerationStarted():
                newest, fence = event.generation, event.fence
            case RecoveryDecided(action="roll_back"):
                newest = None
            case RunEnded() if event.gives_up_memory or event.fence == fence:
                newest = None
    return newest


def _last_checkpoint(events: Sequence[Event]) -> str | None:
    """Name of the newest checkpoint; None where no event tells of one."""
    for event in reversed(events):
        if isinstance(event, CheckpointCommitted):
            return event.directory
    return None


def vain_resume(events: Sequence[Event]) -> str:
    """What is told of the newest resume that came to nothing; empty where there is none."""
    if finish_before(events) is None:
        return ""
    # A controller that was killed has left no end.
    newest = [event for event in events if isinstance(event, (RunEnded, RunCreated))][-1]
    cause = newest.cause if isinstance(newest, RunEnded) else None
    told = "the last resume trained no step, and the run is as it was"
    return f"{told}: {cause}" if cause else told


def as_finished(status: RunStatus, events: Sequence[Event]) -> RunStatus:
    """The status without what a resume that came to nothing has written into it."""
    ended = finish_before(events)
    if ended is None or status.state not in (*FINAL_STATES, "LOST"):
        return status
    news = {"state": "FINISHED", "generation": ended.generation, "phase": "", "unsaved": ""}
    return status.model_copy(update={**news, "step": ended.step, "steps": ended.step})


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
    others = [word for word in _options(found.command) if not word.startswith("--address")]
    return (f"--address {shlex.quote(found.address)}", *others)


def resume_command(path: Path, is_readable: bool = True, changes: str = "") -> str:
    """What goes on with the run in `path`, as it would be typed now. Where its record is damaged,
    or not `is_readable`, by the options of the command that is under way. What that has changed of
    the run, where it is a resume, is not recorded yet, and so is typed again, but for the key that
    who suggests it `changes`."""
    events: Sequence[Event] = ()
    if is_readable:
        with contextlib.suppress(RecordError, StorageError):
            events = RunDir(path).read_events()
    words = ("dougong", "resume", shlex.quote(str(path)))
    typed = sys.argv[1:]
    again = resume_words(typed)
    if changes:
        again = tuple(word for word in again if f"{changes}=" not in word)
    return " ".join((*words, *launch_words(events, typed), *again))


def resume_words(typed: Sequence[str], begins: bool = False) -> tuple[str, ...]:
    """The overrides of a resume, as a shell takes them; with `begins`, from which step it was to go
    on, too. `typed`: its words; nothing where they are another command's."""
    if not typed or typed[0] != "resume":
        return ()
    if not begins:
        return tuple(_options(typed, (), _OVERRIDES))
    return tuple(_options(typed, ("--from-scratch",), ("--step", *_OVERRIDES)))


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


def _options(
    words: Sequence[str], flags: Sequence[str] = _FLAGS, valued: Sequence[str] = _VALUED
) -> Iterator[str]:
    """Those among a command's words, in its order."""
    for number, word in enumerate(words):
        name, has_value, _ = word.partition("=")
        is_short = _OVERRIDE in valued and word.startswith(_OVERRIDE) and word != _OVERRIDE
        if word in flags or (name in valued and has_value) or is_short:
            yield shlex.quote(word)
        elif word in valued:
            yield shlex.join(words[number : number + 2])
