"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from dougong.job.schema import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Rate of step 1..steps: linear warm-up to `peak`, then cosine, linear or no decay to
    `final_fraction * peak`.

    The last step gets exactly the final rate.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if schedule.name == "constant":
        return peak
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    left = (
        1.0 - progress if schedule.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    )
    return peak * (schedule.final_fraction + (1.0 - schedule.final_fraction) * left)
