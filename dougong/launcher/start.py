"""`dougong start`: the same words begin a run and go on with it, for a scheduler that types them
again whenever the machines are there again."""

from __future__ import annotations

from pathlib import Path

from dougong.job.load import ResolvedJob
from dougong.launcher.run import Options, ResumeRequest, resume_run
from dougong.launcher.take_over import StepsDoneError
from dougong.records.claim import has_committed
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated
from dougong.records.finished import launch_words


def goes_on(path: Path) -> bool:
    """Whether the directory holds a run to go on with; else one begins there. LaunchError when its
    record cannot be read."""
    return has_committed(RunDir(path))


def address_before(path: Path) -> str:
    """The Ray cluster that the run in `path` was on last, HOST:PORT; empty where it was on none but
    its own. LaunchError or RecordError when there is no run, or its record cannot be read."""
    events = RunDir.open(path).read_events()
    created = [event for event in events if isinstance(event, RunCreated)]
    return created[-1].address if created else ""


def ran_without_ray(path: Path) -> bool:
    """Whether the run in `path` was on this machine without Ray, by what is suggested for it.
    Raises what `address_before` raises."""
    return "--no-ray" in launch_words(RunDir.open(path).read_events())


def go_on(resolved: ResolvedJob, path: Path, options: Options, takes_over: bool) -> int | None:
    """Go on with the run in `path` as this job says; the exit status, None when all of its steps
    are done. JobError when the job is another than the run's in what fixes its bits."""
    try:
        return resume_run(path, (), options, ResumeRequest(takes_over=takes_over, job=resolved))
    except StepsDoneError:
        return None
