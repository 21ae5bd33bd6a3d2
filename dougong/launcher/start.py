"""`dougong start`: the same words begin a run and go on with it, for a scheduler that types them
again whenever the machines are there again."""

from __future__ import annotations

import shlex
from pathlib import Path

from dougong.errors import JobError
from dougong.job.load import ResolvedJob
from dougong.job.schema import Job
from dougong.launcher.alive import refuse_if_alive
from dougong.launcher.run import (
    Options,
    ResumeRequest,
    job_of,
    resume_run,
    take_over,
)
from dougong.planner.resume import check_resume
from dougong.records.claim import has_committed
from dougong.records.directory import RunDir


def goes_on(path: Path) -> bool:
    """Whether the directory holds a run to go on with; else one begins there. LaunchError when its
    record cannot be read."""
    return has_committed(RunDir(path))


def go_on(resolved: ResolvedJob, path: Path, options: Options, takes_over: bool) -> int | None:
    """Go on with the run in `path` as this job says; the exit status, None when all of its steps
    are done. JobError when the job is another than the run's in what fixes its bits."""
    run_dir = RunDir.open(path.absolute())
    refuse_if_alive(run_dir, takes_over)
    _refuse_other(run_dir, resolved.job)
    if take_over(run_dir).step >= resolved.job.steps:
        return None
    request = ResumeRequest(takes_over=takes_over, job=resolved)
    return resume_run(run_dir.path, (), options, request)


def _refuse_other(run_dir: RunDir, job: Job) -> None:
    before = job_of(run_dir).job
    try:
        check_resume(before, job)
    except JobError as error:
        resume = f"dougong resume {shlex.quote(str(run_dir.path))}"
        raise JobError(
            f"{error}; `{resume}` goes on with the run in {run_dir.path}, another "
            "--run-dir is for another run"
        ) from error
