"""When an event was."""

from __future__ import annotations

import pytest
from dougong.records.kinds.base import RunEvent, read_wall
from pydantic import ValidationError


def test_a_wall_time_is_one_of_utc_or_not_written_yet() -> None:
    assert RunEvent(kind="x", generation=1).wall == ""
    assert read_wall("2025-11-22T09:30:00.250Z").microsecond == 250_000
    with pytest.raises(ValidationError, match="must be a time such as"):
        RunEvent(kind="x", generation=1, wall="yesterday")
