"""What a controller is given."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.job.schema import Job
from dougong.launcher.controller.config import TRAINING, ControllerConfig, EntryPoints, ResumePoint
from tests.launcher.toyrun import toy_job


@pytest.mark.parametrize(
    ("determinism", "entries", "expected"),
    [
        ("layout", TRAINING, True),
        ("run", TRAINING, True),
        ("off", TRAINING, False),
        ("layout", EntryPoints(fingerprint=None), False),
    ],
)
def test_devices_are_probed_where_their_bits_matter(determinism: str, entries: EntryPoints, expected: bool) -> None:
    job: Any = Job.model_validate(toy_job(determinism=determinism))
    config = ControllerConfig(job, "secret", "/", entries=entries)
    assert config.takes_fingerprints is expected
    assert config.deadlines == DEADLINES


@pytest.mark.parametrize(("has_committed", "expected"), [(False, True), (True, False)])
def test_what_a_run_read_is_missed_only_where_it_has_trained(has_committed: bool, expected: bool) -> None:
    """A run that was stopped before its first generation begins with the resume."""
    job: Any = Job.model_validate(toy_job())
    point = ResumePoint(generation=3, has_committed=has_committed)
    assert ControllerConfig(job, "secret", "/", resume_point=point).knows_beginning is expected


def test_a_controller_keeps_to_the_thousand_in_which_it_begins() -> None:
    ResumePoint(generation=1).check_generation(1000)
    ResumePoint(generation=1001).check_generation(2000)
    with pytest.raises(LaunchError, match="generation 2001: a controller begins none after 2000"):
        ResumePoint(generation=1001).check_generation(2001)
