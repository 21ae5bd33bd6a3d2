"""The learning rate over steps: exact ends, monotone between them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dougong.job.parts.schedule import Schedule
from dougong.remarks import Remarks
from dougong.training.optimizers.lr_schedule import learning_rate, rate_remarks
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.jobs import make_job

PEAK = 3e-3


def rates(schedule: Schedule, steps: int) -> list[float]:
    return [learning_rate(schedule, PEAK, step, steps) for step in range(1, steps + 1)]


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    found = rates(Schedule(name="cosine", warmup_steps=4, final_fraction=0.1), 10)
    assert found[:4] == pytest.approx([PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK])


@pytest.mark.parametrize(
    ("name", "middle", "last"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_decay_passes_the_middle_and_ends_at_the_final_rate(name: str, middle: float, last: float) -> None:
    found = rates(Schedule(name=name, warmup_steps=2, final_fraction=0.1), 12)
    assert found[6] == pytest.approx(PEAK * middle, rel=1e-12)
    assert found[-1] == pytest.approx(PEAK * last, rel=1e-12)


def test_a_quarter_of_the_way_tells_cosine_from_linear() -> None:
    found = {n: rates(Schedule(name=n, final_fraction=0.0), 4)[0] / PEAK for n in ("cosine", "linear")}
    assert found["linear"] == pytest.approx(0.75)
    assert found["cosine"] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@given(st.sampled_from(["cosine", "linear", "constant"]), st.integers(1, 60), st.integers(0, 60), st.floats(0, 1))
@settings(deadline=None)
def test_rates_rise_then_fall_and_stay_within_bounds(name: str, steps: int, warmup: int, final: float) -> None:
    warmup = min(warmup, steps)
    found = rates(Schedule(name=name, warmup_steps=warmup, final_fraction=final), steps)
    rise, fall = found[:warmup], found[max(0, warmup - 1) :]
    assert rise == sorted(rise) and fall == sorted(fall, reverse=True)
    assert all(0 <= r <= PEAK * (1 + 1e-12) for r in found)
    if warmup < steps and name != "constant":
        assert found[-1] == pytest.approx(PEAK * final, rel=1e-9, abs=1e-18)


@given(st.sampled_from(["cosine", "linear"]), st.integers(1, 30), st.integers(0, 30), st.integers(1, 60))
@settings(deadline=None)
def test_the_decay_ends_where_it_is_told_to_whatever_the_steps(name: str, end: int, warmup: int, steps: int) -> None:
    """Up to its end the rates are those of a job of so many steps; behind it they stay."""
    warmup = min(warmup, end)
    schedule = Schedule(name=name, warmup_steps=warmup, decay_steps=end)
    found, whole = rates(schedule, steps), rates(Schedule(name=name, warmup_steps=warmup), end)
    assert found[:end] == whole[:steps]
    if warmup < end:
        assert set(found[end:]) <= {whole[-1]}


@pytest.mark.parametrize(
    ("steps", "schedule", "remarks"),
    [
        (60, {}, Remarks()),
        (60, {"decay_steps": 60}, Remarks()),
        (70, {"name": "constant"}, Remarks()),
        (70, {"decay_steps": 60}, Remarks(notes=(
            "steps 61 to 70 have the learning rate at which the decay ends at step 60 (schedule.decay_steps): "
            "0.001",))),
        (61, {"decay_steps": 60}, Remarks(notes=(
            "step 61 has the learning rate at which the decay ends at step 60 (schedule.decay_steps): 0.001",))),
        (61, {"decay_steps": 60, "final_fraction": 0.0}, Remarks(warnings=(
            "step 61 has a learning rate of 0 and trains nothing: the decay ends at step 60; raise "
            "schedule.decay_steps, or schedule.final_fraction in a new run",))),
        (60, {"name": "linear", "decay_steps": 120}, Remarks(notes=(
            "the learning rate's decay ends at step 120 (schedule.decay_steps), behind the last step, 60, which has "
            "0.0055",))),
        (70, {"decay_steps": 60, "final_fraction": 0.0}, Remarks(warnings=(
            "steps 61 to 70 have a learning rate of 0 and train nothing: the decay ends at step 60; raise "
            "schedule.decay_steps, or schedule.final_fraction in a new run",))),
    ],
)  # fmt: skip
def test_a_decay_that_does_not_end_with_the_job_is_told(steps: int, schedule: dict[str, Any], remarks: Remarks) -> None:
    assert rate_remarks(make_job(steps=steps, schedule=schedule)) == remarks


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_warm_up_may_take_every_step(name: str) -> None:
    assert rates(Schedule(name=name, warmup_steps=3), 3) == pytest.approx([PEAK / 3, PEAK * 2 / 3, PEAK])
