"""The job with which a run goes on: what it has recorded, and what a resume changes of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence

from dougong.accelerators.registry import is_accelerator
from dougong.bridge_names import AUTO, bridge_names
from dougong.control.run_sources import LOOKED_FOR
from dougong.errors import JobError
from dougong.job.load import ResolvedJob, load_recorded
from dougong.job.schema import Job
from dougong.launcher.decay import with_decay_end
from dougong.launcher.sources import found_attention
from dougong.planner.resume import check_resume
from dougong.records.directory import RunDir
from dougong.records.finished import resume_command


def recorded_job(run_dir: RunDir) -> ResolvedJob:
    """The run's job as it was. JobError says that another release may have written it."""
    try:
        return with_decay_end(load_recorded(run_dir.job_file))
    except JobError as error:
        raise JobError(
            f"{error}\n{run_dir.job_file}: is what `dougong run` wrote for itself; go on with the "
            "release of dougong that wrote it, or mend the file"
        ) from error


def next_job(
    before: ResolvedJob, run_dir: RunDir, overrides: Sequence[str], given: ResolvedJob | None
) -> ResolvedJob:
    """The job from now on: the run's own with `overrides`, or the one that is `given` anew.

    JobError when it is another than the run's in what fixes its bits, or names what the run had
    from a package that is gone.
    """
    after = given or load_recorded(run_dir.job_file, list(overrides))
    after = with_decay_end(after, before.job.schedule.decay_steps)
    resume = resume_command(run_dir.path)
    gone = tuple(_gone(after.job))
    if gone:
        raise JobError(_gone_words(gone, resume))
    try:
        after = _with_found_attention(before.job, after, run_dir)
        check_resume(before.job, after.job)
    except JobError as error:
        if given is None:
            raise
        raise JobError(
            f"{error}; `{resume}` goes on with the run in {run_dir.path}, another "
            "--run-dir is for another run"
        ) from error
    return after


@dataclasses.dataclass(frozen=True)
class _Gone:
    """A name that the run had from a package, and none offers here. `group`: of entry points;
    `instead`: an override that goes on without it."""

    key: str
    name: str
    group: str
    instead: str

    def __str__(self) -> str:
        return (
            f"{self.key}: the run has used {self.name}, which no package that is installed here "
            f"offers (an entry point of {self.group})"
        )


def _gone(job: Job) -> Iterator[_Gone]:
    for island in job.islands:
        if not is_accelerator(island.accelerator):
            key = f"islands.{island.name}.accelerator"
            group = "dougong.accelerators"
            instead = f"-o {shlex.quote(key)}=cpu"
            if island.shares_device:  # workers of cpu share no device, but their machine
                instead += f" -o {shlex.quote(f'islands.{island.name}.devices')}=own"
            yield _Gone(key, island.accelerator, group, instead)
    if job.bridge not in bridge_names():
        yield _Gone("bridge", job.bridge, "dougong.bridges", f"-o bridge={AUTO}")


def _gone_words(gone: Sequence[_Gone], resume: str) -> str:
    """Each by its name, and one command that goes on without all of them."""
    packages = "package that adds it" if len(gone) == 1 else "packages that add them"
    command = " ".join((resume, *[one.instead for one in gone]))
    bits = ""
    if any(one.key != "bridge" for one in gone):
        bits = ", with `-o numerics=bounded` where other kernels give other bits"
    remedy = f"install the {packages}, or go on without: `{command}`{bits}"
    return "\n".join((*map(str, gone), remedy))


def _with_found_attention(before: Job, after: ResolvedJob, run_dir: RunDir) -> ResolvedJob:
    """The job with the run's own `model.attention`, where that leaves the form open (auto, null)
    and the new one names the form that was found for it: these mean the same.

    JobError where it names another one.
    """
    was, now = before.model.attention, after.job.model.attention
    if was == now or was not in (LOOKED_FOR, None):
        return after
    found = found_attention(run_dir)
    if now is not None and now == found:
        model = after.job.model.model_copy(update={"attention": was})
        return dataclasses.replace(after, job=after.job.model_copy(update={"model": model}))
    then = f"model.attention: {was or 'null'} then, {now or 'null'} now"
    if not found:
        raise JobError(
            f"{then}: the run has not come to the form that it computes attention by; leave the "
            "key out, or begin a new run"
        )
    how = "`auto` found when it began" if was else "transformers chose for the family"
    raise JobError(
        f"{then}: this run computes attention by {found}, which {how}, so that its next steps "
        f"would be another run's; leave the key out, say {found}, or begin a new run"
    )
