"""The keys of the learning rate's schedule."""

from __future__ import annotations

import pytest
from dougong.job.parts.schedule import Schedule
from pydantic import ValidationError


def test_a_schedule_has_no_warm_up_unless_it_is_asked_for() -> None:
    schedule = Schedule()
    assert (schedule.name, schedule.warmup_steps, schedule.final_fraction) == ("cosine", 0, 0.1)
    assert schedule.decay_steps is None


@pytest.mark.parametrize(
    "values", [{"final_fraction": 1.5}, {"warmup_steps": -1}, {"decay_steps": 0}, {"name": "step"}]
)
def test_what_is_no_schedule_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Schedule.model_validate(values)
