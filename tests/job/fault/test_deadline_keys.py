"""`fault.deadlines`: every limit that may be set is a key, and a key sets its limit."""

from __future__ import annotations

import dataclasses

import pytest
from dougong.deadlines import DEADLINES, SETTABLE
from dougong.job.fault.deadline_keys import DeadlineKeys
from dougong.job.schema import Fault


def test_the_keys_are_those_that_may_be_set() -> None:
    assert list(DeadlineKeys.model_fields) == list(SETTABLE)
    for name, field in DeadlineKeys.model_fields.items():
        default = f"null: {getattr(DEADLINES, name):g}"
        assert field.description == f"{SETTABLE[name]}; seconds; {default}"


def test_by_default_all_limits_are_the_program_s() -> None:
    assert Fault().limits() == DEADLINES


@pytest.mark.parametrize("name", SETTABLE)
def test_a_key_sets_its_limit_and_no_other(name: str) -> None:
    fault = Fault.model_validate({"deadlines": {name: 77}})
    assert fault.limits() == dataclasses.replace(DEADLINES, **{name: 77.0})
