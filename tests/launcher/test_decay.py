"""A resume with more steps leaves the learning rate's decay where it was, and says what bends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.job.load import ResolvedJob, load_job
from dougong.job.schema import Job
from dougong.launcher.decay import bent_rate, with_decay_end
from dougong.training.optimizers.lr_schedule import rate_of
from tests.jobs import make_job
from tests.launcher.jobs import write


def job_of(steps: int, decay_steps: int | None = None, **schedule: Any) -> Job:
    job = make_job(steps=steps, schedule={"warmup_steps": 4, "decay_steps": decay_steps} | schedule)
    return with_decay_end(ResolvedJob(job, {})).job


def test_a_run_keeps_the_end_of_its_decay(tmp_path: Path) -> None:
    """The job file of a run says it, so that a resume reads it there."""
    begun = with_decay_end(load_job(write(tmp_path, steps="60")))
    assert begun.job.schedule.decay_steps == 60
    kept = tmp_path / "kept.yaml"
    kept.write_text(begun.to_yaml())
    more = load_job(kept, ["steps=70"])
    assert (more.job.steps, more.job.schedule.decay_steps) == (70, 60)
    assert with_decay_end(more) == more
    asked = load_job(kept, ["steps=70", "schedule.decay_steps=70"])
    assert with_decay_end(asked, 60).job.schedule.decay_steps == 70


def test_a_run_whose_job_file_does_not_say_it_keeps_its_own_steps(tmp_path: Path) -> None:
    """As those of earlier releases; and `-o schedule.decay_steps=null` is no way around it."""
    file = write(tmp_path, steps="60")
    before = with_decay_end(load_job(file))
    for override in ([], ["schedule.decay_steps=null"]):
        after = with_decay_end(load_job(file, ["steps=70", *override]), before.job.schedule.decay_steps)
        assert after.job.schedule.decay_steps == 60
        assert bent_rate(before.job, after.job, 61) is None


def test_a_constant_rate_has_no_decay_to_keep(tmp_path: Path) -> None:
    resolved = load_job(write(tmp_path, schedule="{name: constant}"))
    assert with_decay_end(resolved) is resolved


def test_more_steps_bend_no_rate() -> None:
    before, after = job_of(60), job_of(70, 60)
    assert [rate_of(before, s) for s in range(1, 61)] == [rate_of(after, s) for s in range(1, 61)]
    assert {rate_of(after, s) for s in range(60, 71)} == {rate_of(before, 60)}
    assert all(bent_rate(before, after, step) is None for step in range(1, 71))


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_moved_decay_is_told_with_both_rates_of_the_first_step_that_has_another(name: str) -> None:
    before = job_of(60, name=name)
    longer, shorter = job_of(120, 120, name=name), job_of(60, 50, name=name)
    cases = [(longer, 1), (longer, 30), (longer, 61), (shorter, 1), (shorter, 50), (shorter, 55)]
    for after, next_step in cases:
        parts = [s for s in range(next_step, after.steps + 1) if rate_of(before, s) != rate_of(after, s)]
        text = bent_rate(before, after, next_step)
        assert text is not None and text.startswith(f"the learning rate bends: step {parts[0]} has "), (text, parts[:1])
        assert f"{rate_of(after, parts[0]):.6g}, and would have had {rate_of(before, parts[0]):.6g}" in text
    assert bent_rate(before, longer, 61) == (
        f"the learning rate bends: step 61 has {rate_of(longer, 61):.6g}, and would have had 0.001 "
        "(schedule.decay_steps: 60 then, 120 now)"
    )


def test_decays_that_have_both_ended_do_not_part() -> None:
    assert bent_rate(job_of(60), job_of(70, 50), 61) is None
    flat = {"final_fraction": 1.0}
    assert bent_rate(job_of(60, **flat), job_of(60, 50, **flat), 1) is None
