"""What all events have."""

from __future__ import annotations

import pytest
from dougong.records.event.base import RunEvent, read_wall
from pydantic import ValidationError


def test_the_time_of_an_event_is_a_time_or_not_set_yet() -> None:
    assert RunEvent(kind="x", generation=1).wall == ""
    told = RunEvent(kind="x", generation=1, wall="2025-11-22T09:30:00.000Z")
    assert read_wall(told.wall).hour == 9
    with pytest.raises(ValidationError, match="must be a time"):
        RunEvent(kind="x", generation=1, wall="yesterday")
