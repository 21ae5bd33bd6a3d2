"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from dougong.job.schema import Schedule


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


def _part_left(decay: str, progress: float) -> float:
    """How much of the way from the peak to the final rate is left, from 1 to 0 as `progress` goes
    from 0 to 1."""
    if decay == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
