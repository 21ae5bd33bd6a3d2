"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from dougong.job.parts.schedule import Schedule
from dougong.job.schema import Job
from dougong.remarks import Remarks


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Rate of step 1..steps: linear warm-up to `peak`, then cosine, linear or no decay to
    `final_fraction * peak`.

    Step `schedule.decay_steps` (null: `steps`) gets exactly the final rate, and so do all steps
    behind it.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if schedule.name == "constant":
        return peak
    end = schedule.decay_steps or steps
    progress = (step - schedule.warmup_steps) / max(1, end - schedule.warmup_steps)
    left = _part_left(schedule.name, min(progress, 1.0))
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * left)


def rate_of(job: Job, step: int) -> float:
    """The rate of a job's step."""
    return learning_rate(job.schedule, job.optimizer.lr, step, job.steps)


def rate_remarks(job: Job) -> Remarks:
    """What is told once of a decay that does not end with the job's last step."""
    end, steps = job.schedule.decay_steps, job.steps
    if end is None or end == steps:
        return Remarks()
    rate = rate_of(job, steps)
    if end > steps:
        text = (
            f"the learning rate's decay ends at step {end} (schedule.decay_steps), behind the last "
            f"step, {steps}, which has {rate:.6g}"
        )
        return Remarks(notes=(text,))
    is_one = end + 1 == steps
    trailing = f"step {steps} has" if is_one else f"steps {end + 1} to {steps} have"
    train = "trains" if is_one else "train"
    if rate > 0:
        text = (
            f"{trailing} the learning rate at which the decay ends at step "
            f"{end} (schedule.decay_steps): {rate:.6g}"
        )
        return Remarks(notes=(text,))
    text = (
        f"{trailing} a learning rate of 0 and {train} nothing: the decay ends "
        f"at step {end}; raise schedule.decay_steps, or schedule.final_fraction in a new run"
    )
    return Remarks(warnings=(text,))


def _part_left(decay: str, progress: float) -> float:
    """How much of the way from the peak to the final rate is left, from 1 to 0 as `progress` goes
    from 0 to 1."""
    if decay == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
