"""The learning rate of a run that is resumed with more steps: its decay stays where it was."""

from __future__ import annotations

import dataclasses

from dougong.job.load import ResolvedJob
from dougong.job.schema import Job
from dougong.training.optimizers.lr_schedule import rate_of


def with_decay_end(resolved: ResolvedJob, end: int | None = None) -> ResolvedJob:
    """The job as a run keeps it: where it leaves open at which step the learning rate's decay ends,
    it is `end` (None: the job's own last step)."""
    job = resolved.job
    if job.schedule.name == "constant" or job.schedule.decay_steps is not None:
        return resolved
    schedule = job.schedule.model_copy(update={"decay_steps": end or job.steps})
    return dataclasses.replace(resolved, job=job.model_copy(update={"schedule": schedule}))


def bent_rate(before: Job, after: Job, next_step: int) -> str | None:
    """What is told of a resume whose next steps get other learning rates than they would have had;
    None: they get the same."""
    # Two decays of one schedule part in the first step behind the warm-up, or, where both have
    # ended by then, never.
    step = max(next_step, after.schedule.warmup_steps + 1)
    then, now = rate_of(before, step), rate_of(after, step)
    if step > after.steps or then == now:
        return None
    return (
        f"the learning rate bends: step {step} has {now:.6g}, and would have had {then:.6g} "
        f"(schedule.decay_steps: {before.schedule.decay_steps} then, "
        f"{after.schedule.decay_steps} now)"
    )
