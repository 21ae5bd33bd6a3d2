"""Events of steps are lines of events.jsonl like any other."""

from __future__ import annotations

import pytest
from dougong.records.events import Event, FirstStep, StepSkipped, StepsRecomputed, from_json, to_json


@pytest.mark.parametrize(
    "event",
    [
        FirstStep(generation=1, step=3),
        StepsRecomputed(generation=2, first=3, last=5, earlier=(1,), differs_from=1, then="a", now="b"),
        StepSkipped(generation=1, step=3, loss=1.5, grad_norm=2.5, where="the loss", windows=(1, 2)),
    ],
)
def test_they_come_back_as_they_were(event: Event) -> None:
    assert from_json(to_json(event)) == event
