"""`fault.actions`: one row for each class of failure that a run may get over."""

from __future__ import annotations

import typing

import pytest
from dougong.fault.diagnosis import FailureKind
from dougong.job.fault.actions import Action, Actions
from dougong.job.fault.classes import FailureClass
from dougong.job.schema import Fault
from pydantic import ValidationError


def test_every_class_that_a_run_may_get_over_has_a_row() -> None:
    assert set(Actions.model_fields) == set(typing.get_args(FailureClass))
    rows = {kind: Actions().of(kind) for kind in typing.get_args(FailureKind)}
    assert {kind for kind, action in rows.items() if action is None} == {
        "data", "model", "numerics", "irreproducible"
    }  # fmt: skip
    assert set(rows.values()) - {None} <= set(typing.get_args(Action))


def test_the_table_unless_a_job_says_otherwise() -> None:
    others = {"device": "quarantine", "storage": "wait_for_storage"}
    assert Actions().model_dump() == dict.fromkeys(Actions.model_fields, "restart") | others


@pytest.mark.parametrize(
    "wrong",
    [{"hang": "quarantine"}, {"device": "wait_for_storage"}, {"crash": "ignore"}, {"numerics": "restart"}],
)
def test_an_action_that_a_class_cannot_have_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate({"actions": wrong})
