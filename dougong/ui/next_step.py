"""What a person does next about a run, by how it stands: one answer for the end of a run, its
status and its report. Only what works is offered."""

from __future__ import annotations

import re
import shlex
import sys
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
from dougong.records.finished import (
    finish_before,
    launch_words,
    newest_generation,
    resume_words,
)

GOES_ON = ("starting", "running", "recovering", "growing", "stopping")
"""States of a run that lives, in small letters."""
MISTAKES = ("data", "model")
"""Classes of failure that come again until somebody has mended the job or its files."""
_MEND = "mend what it names"
_REMEDIES = {
    **dict.fromkeys(("crash", "node_lost", "preemption", "storage"), ""),
    "corruption": "look at the machines' memory and heat",
    "numerics": "lower optimizer.lr or set optimizer.clip_norm",
    "irreproducible": "mend what has changed (or accept other bits: -o numerics=bounded)",
}
"""What has to be done first, by the class of failure; nothing where it came from outside. Any
other comes again until what it names is mended."""
_RATE = re.compile(r"((?:-o|--override=)?optimizer\.lr=).*", re.DOTALL)
"""A word that sets the learning rate."""
_MODULE = "python -m dougong"
_PUT_BACK = "put the run directory back (where it is lost for good, begin anew)"


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

    A run goes on from a checkpoint. One that has committed none starts from the beginning, by a
    resume too; the command that began it does so in the same directory, with a job that has been
    mended.
    """
    dougong, directory = program(events), shlex.quote(str(path))
    if _is_gone(path, events):
        return NextStep(f"{dougong} status {directory}", _PUT_BACK)
    if state in GOES_ON:
        return NextStep(f"{dougong} status {directory}")
    if state == "finished" or finish_before(events) is not None:
        return NextStep(f"{dougong} export {directory} OUT")
    return _again(path, events, f"{dougong} verify {directory}", f"{dougong} resume {directory}")


def after_refusal(path: Path, events: Sequence[Event], typed: Sequence[str] = ()) -> NextStep:
    """The next step for a resume that was refused. `typed`: its own words; `events`: the run's,
    without what it has written."""
    words = [program(events), "resume", shlex.quote(str(path)), *launch_words(events, typed)]
    return NextStep(" ".join([*words, *resume_words(typed, begins=True)]), _MEND)


def _again(path: Path, events: Sequence[Event], verify: str, resume: str) -> NextStep:
    """What a run that has ended before its last step needs: one of two commands, or the one that
    began it."""
    names = {place.path.name for place in list_committed(RunDir(path).checkpoints)}
    rejected = set()
    for event in events:
        if isinstance(event, CheckpointRejected):
            rejected.add(event.directory)
        elif isinstance(event, CheckpointCommitted):
            rejected.discard(event.directory)  # the name of one that was set aside
    if names and names <= rejected:
        return NextStep(verify)
    # What was committed once is not taken for nothing, even where it is gone.
    if not names and not any(isinstance(event, CheckpointCommitted) for event in events):
        if _may_be_held(events):
            return NextStep(" ".join([resume, *launch_words(events)]))
        return NextStep(_begin_again(path, events), _remedy_of(_failed_end_of(events)))
    words = [resume, *launch_words(events)]
    return _resume([*words, *([] if names else ["--from-scratch"])], events)


def _may_be_held(events: Sequence[Event]) -> bool:
    """Whether workers on a cluster, which outlive their controller, may hold what was trained."""
    created = [event for event in events if isinstance(event, RunCreated)]
    is_on_cluster = bool(created and created[-1].address)
    return is_on_cluster and newest_generation(events) is not None


def _resume(words: Sequence[str], events: Sequence[Event]) -> NextStep:
    ended = _failed_end_of(events)
    if ended is not None and ended.failure == "numerics":
        # A resume may not change the optimizer: the steps that are not finite are left out.
        return NextStep(" ".join([*words, _change_for(events)]))
    return NextStep(" ".join(words), _remedy_of(ended))


def _remedy_of(ended: RunEnded | None) -> str:
    if ended is None:
        return ""
    return _REMEDIES.get(ended.failure or "", _MEND)


def _is_gone(path: Path, events: Sequence[Event]) -> bool:
    """Whether the run's record is not there any more. What is still writing (a worker, a log) may
    have made the directory anew, but not what was written once, at the run's beginning."""
    has_begun = any(isinstance(event, RunCreated) for event in events)
    return not has_begun and not RunDir(path).job_file.is_file()


def program(events: Sequence[Event]) -> str:
    """What to type for the program: as it was called for this run's newest controller, or, where
    no record says that, as it is called now."""
    created = [event.command for event in events if isinstance(event, RunCreated) and event.command]
    if created:
        return _MODULE if created[-1][0] == "__main__.py" else "dougong"
    is_module = Path(sys.argv[0]).parts[-2:] == ("dougong", "__main__.py")
    return _MODULE if is_module else "dougong"


def typed(words: Sequence[str]) -> str:
    """A command's words as a shell takes them."""
    if words[0] == "__main__.py":
        words = [*_MODULE.split(), *words[1:]]
    return shlex.join(words)


def _change_for(events: Sequence[Event]) -> str:
    """What a resume must change after a step that was not finite. The same step would come to the
    same end: it can only be left out, or more of them where some were."""
    for event in reversed(events):
        if isinstance(event, StepSkipped):
            # The run ended with the step after as many as it may leave out in a row.
            return f"-o fault.max_skips={2 * event.in_a_row}"
        if isinstance(event, RunCreated):
            break
    return "-o fault.non_finite=skip"


def _failed_end_of(events: Sequence[Event]) -> RunEnded | None:
    """With what the newest controller ended the run, where that is a failure."""
    for event in reversed(events):
        if isinstance(event, RunEnded):
            return event if event.kind == "failed" else None
        if isinstance(event, RunCreated):
            return None
    return None


def _begin_again(path: Path, events: Sequence[Event]) -> str:
    """The command that began the run, for the same directory and the same machines."""
    created = [event for event in events if isinstance(event, RunCreated)]
    begun = [event for event in created if event.command[1:2] in (("run",), ("start",))]
    if not begun:
        options = ["--run-dir", shlex.quote(str(path)), *launch_words(events)]
        return f"{program(events)} run FILE {' '.join(options)}"
    words, address = begun[-1].command, begun[-1].address
    ended = _failed_end_of(events)
    if ended is not None and ended.failure == "numerics":
        # What is to be lowered is not said again as it was.
        words = tuple(_RATE.sub(r"\1LOWER", word) for word in words)
    # A default directory has the time in its name: said again, it would be another one.
    if not _names(words, "--run-dir"):
        words = (*words, "--run-dir", str(path))
    # RAY_ADDRESS is another in another shell.
    if address and not _names(words, "--address"):
        words = (*words, "--address", address)
    return typed(words)


def _names(words: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words)
