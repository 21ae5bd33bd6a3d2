"""The commands that train, each beside its controller: `supervisor` says how it is watched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from dougong.job.load import ResolvedJob
from dougong.launcher.run import Options, ResumeRequest, end_lost_run, resume_run, start_run
from dougong.launcher.start import go_on
from dougong.launcher.supervisor import ControllerDeath, Supervisor
from dougong.records.directory import RunDir
from dougong.records.events import GenerationStarted


def run_beside(
    resolved: ResolvedJob, path: Path, options: Options, takes_over: bool = False
) -> int:
    """As `start_run`."""
    supervisor = Supervisor(path)
    options = dataclasses.replace(options, keeping=supervisor.keeping)

    def begin() -> int:
        return start_run(resolved, path, options, takes_over)

    def follow(death: ControllerDeath) -> int:
        return _follow(path, (), options, ResumeRequest(), death)

    return supervisor.run(begin, follow)


def resume_beside(
    path: Path, overrides: Sequence[str], options: Options, request: ResumeRequest
) -> int:
    """As `resume_run`."""
    supervisor = Supervisor(path)
    options = dataclasses.replace(options, keeping=supervisor.keeping)

    def begin() -> int:
        return resume_run(path, overrides, options, request)

    def follow(death: ControllerDeath) -> int:
        return _follow(path, overrides, options, request, death)

    return supervisor.run(begin, follow)


def go_on_beside(
    resolved: ResolvedJob,
    path: Path,
    options: Options,
    takes_over: bool,
    say_done: Callable[[], None],
) -> int:
    """As `go_on`; `say_done` is called where all steps are done."""
    supervisor = Supervisor(path)
    options = dataclasses.replace(options, keeping=supervisor.keeping)

    def begin() -> int:
        status = go_on(resolved, path, options, takes_over)
        if status is None:
            say_done()
        return status or 0

    def follow(death: ControllerDeath) -> int:
        return _follow(path, (), options, ResumeRequest(job=resolved), death)

    return supervisor.run(begin, follow)


def _follow(
    path: Path,
    overrides: Sequence[str],
    options: Options,
    request: ResumeRequest,
    death: ControllerDeath,
) -> int:
    """Go on with a run whose controller has died, or end it where that is in vain."""
    if death.in_vain:
        return end_lost_run(path, death)
    if _has_begun(path, death.fence):
        # What was asked for has been met: it is no wish for what was trained since.
        request = dataclasses.replace(request, step=None, from_scratch=False)
    return resume_run(path, overrides, options, request, death)


def _has_begun(path: Path, fence: int) -> bool:
    """Whether this controller has come to a generation."""
    events = RunDir(path).read_events()
    return any(isinstance(e, GenerationStarted) and e.fence == fence for e in events)
