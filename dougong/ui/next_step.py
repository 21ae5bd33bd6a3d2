"""What a person does next about a run, by how it stands: one answer for the end of a run, its
status and its report. Only what works is offered."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.checkpoint.directories import list_committed
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    Event,
    RunCreated,
    RunEnded,
    StepSkipped,
)
from dougong.records.finished import finish_before

_GOES_ON = ("starting", "running", "recovering", "stopping")
MISTAKES = ("data", "model")
"""Classes of failure that come again until somebody has mended the job or its files."""
_REMEDIES = {
    **dict.fromkeys(MISTAKES, "mend what it names"),
    "irreproducible": "mend what has changed (or accept other bits: -o numerics=bounded)",
}
"""What has to be done first, by the class of failure."""


@dataclass(frozen=True)
class NextStep:
    """`command`: what to type; `remedy`: what has to be done first, empty where nothing has."""

    command: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.remedy}, then: {self.command}" if self.remedy else self.command


def next_step(path: Path, state: str, events: Sequence[Event]) -> NextStep:
    """The next step for the run in `path`. `state`: in small letters, `lost` when its controller
    is gone; `events`: all of the run's.

    A run goes on from a checkpoint; without one there is nothing to resume, and the command that
    began it begins it again in the same directory.
    """
    if state in _GOES_ON:
        return NextStep(f"dougong status {_quoted(path)}")
    if state == "finished" or finish_before(events) is not None:
        return NextStep(f"dougong export {_quoted(path)} OUT")
    failure = _failure_of(events)
    change = _change_for(events) if failure == "numerics" else ""
    remedy = _REMEDIES.get(failure or "", "")
    names = {place.path.name for place in list_committed(RunDir(path).checkpoints)}
    rejected = {event.directory for event in events if isinstance(event, CheckpointRejected)}
    if names and names <= rejected:
        return NextStep(f"dougong verify {_quoted(path)}")
    if names:
        return NextStep(f"dougong resume {_quoted(path)}{change}", remedy)
    # What was committed once is not taken for nothing, even where it is gone.
    if any(isinstance(event, CheckpointCommitted) for event in events):
        return NextStep(f"dougong resume {_quoted(path)} --from-scratch", remedy)
    return NextStep(_begin_again(path, events), remedy)


def typed(words: Sequence[str]) -> str:
    """A command's words as a shell takes them."""
    if words[0] == "__main__.py":
        words = ["python", "-m", "dougong", *words[1:]]
    return shlex.join(words)


def _change_for(events: Sequence[Event]) -> str:
    """What a resume must change after a step that was not finite. The same step would come to the
    same end: it can only be left out, or more of them where some were."""
    for event in reversed(events):
        if isinstance(event, StepSkipped):
            return " -o fault.max_skips=N"
        if isinstance(event, RunCreated):
            break
    return " -o fault.non_finite=skip"


def _failure_of(events: Sequence[Event]) -> str | None:
    """The class of failure with which the newest controller ended the run; None for none."""
    for event in reversed(events):
        if isinstance(event, RunEnded):
            return event.failure
        if isinstance(event, RunCreated):
            return None
    return None


def _begin_again(path: Path, events: Sequence[Event]) -> str:
    """The command that began the run, for the same directory."""
    commands = [event.command for event in events if isinstance(event, RunCreated)]
    begun = [words for words in commands if words[1:2] == ("run",)]
    if not begun:
        return f"dougong run FILE --run-dir {_quoted(path)}"
    words = begun[-1]
    # A default directory has the time in its name: said again, it would be another one.
    named = any(word == "--run-dir" or word.startswith("--run-dir=") for word in words)
    return typed(words if named else (*words, "--run-dir", str(path)))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
