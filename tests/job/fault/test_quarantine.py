"""`fault.quarantine`: after how many failures, and which devices are used all the same."""

from __future__ import annotations

import pytest
from dougong.job.schema import Fault
from pydantic import ValidationError


def test_two_failures_are_the_devices_own() -> None:
    keys = Fault().quarantine
    assert (keys.after, keys.lift) == (2, ())
    assert Fault.model_validate({"quarantine": {"lift": ["GPU-1"]}}).quarantine.lift == ("GPU-1",)


@pytest.mark.parametrize("wrong", [{"after": 0}, {"lift": [""]}, {"lift": "GPU-1"}])
def test_what_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate({"quarantine": wrong})
