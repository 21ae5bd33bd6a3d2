"""Runs on this machine: what is left out of the job, and what ends them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from dougong.errors import LaunchError
from dougong.records.partial_run import PartialRun
from dougong.tools.local_run import on_this_machine, run_here
from tests.tools.recording import QUICK, small_job


def test_what_its_bits_do_not_depend_on_is_left_out(tmp_path: Path) -> None:
    job = small_job(tmp_path, checkpoint={"every": 2, "keep": 3}, fault={"non_finite": "skip"})
    island = job.islands[0].model_copy(update={"node": "10.0.0.1", "workers": 3})
    here = on_this_machine(job, (island,))
    assert [(i.node, i.workers) for i in here.islands] == [(None, 3)]
    assert here.drill == () and here.fault.max_restarts == 0
    assert here.fault.non_finite == "skip", "a step that was skipped is skipped again"
    assert here.checkpoint.every == 0 and here.checkpoint.keep > job.steps
    assert here.data.validation is not None and here.data.validation.every > job.steps
    # The held-out part is as large as before: the training data stay the same.
    assert job.data.validation is not None
    assert here.data.validation.fraction == job.data.validation.fraction
    same = ("model", "batch", "steps", "seed", "optimizer", "schedule", "determinism")
    assert all(getattr(here, name) == getattr(job, name) for name in same)


def test_a_run_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    job = small_job(tmp_path, steps=3, schedule={})
    options = dataclasses.replace(QUICK, timeout_s=0.05)
    with pytest.raises(LaunchError, match="not done within 0.05 s; give it more by --timeout"):
        run_here(on_this_machine(job, job.islands), tmp_path / "run", PartialRun(3), options)
