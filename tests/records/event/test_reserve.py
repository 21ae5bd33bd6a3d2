"""Events of agents that stand by are read as they were written."""

from __future__ import annotations

import pytest
from dougong.records.event.base import RunEvent
from dougong.records.event.reserve import ReserveEvent, RunGrown, RunShrunk, SpareLost, SpareShort, SpareStands
from dougong.records.events import from_json, to_json


@pytest.mark.parametrize(
    "event",
    [
        SpareStands(generation=1, agent="a", node="n"),
        SpareLost(generation=1, agent="a", node="n", reason="r"),
        SpareShort(generation=1, text="t"),
        RunShrunk(generation=1, before=3, now=2, missing=("a/0",), reason="r"),
        RunGrown(generation=1, before=2, now=3, workers=("a/0",)),
    ],
)
def test_what_is_written_is_read(event: RunEvent) -> None:
    assert from_json(to_json(event)) == event and isinstance(event, ReserveEvent)  # type: ignore[arg-type]
