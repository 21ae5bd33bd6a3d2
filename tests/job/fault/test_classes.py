"""The classes of failure about which a job may say something of its own."""

from __future__ import annotations

import typing

import pytest
from dougong.fault.diagnosis import FailureKind
from dougong.fault.policy import DETERMINISTIC
from dougong.job.fault.classes import FailureClass
from dougong.job.schema import Fault
from pydantic import ValidationError


def test_they_are_all_but_those_that_would_come_again() -> None:
    kinds = set(typing.get_args(FailureKind))
    assert set(typing.get_args(FailureClass)) == kinds - set(DETERMINISTIC)


def test_another_word_is_refused() -> None:
    assert Fault(per_hour={"crash": 20}).per_hour == {"crash": 20}
    for wrong in ({"per_hour": {"crashes": 3}}, {"per_hour": {"crash": -1}}):
        with pytest.raises(ValidationError):
            Fault.model_validate(wrong)
