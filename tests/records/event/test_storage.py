"""Events of storage are lines of events.jsonl like any other."""

from __future__ import annotations

import pytest
from dougong.records.events import CheckpointsLeft, Event, StorageAnswered, StorageTroubled, from_json, to_json


@pytest.mark.parametrize(
    "event",
    [
        StorageTroubled(
            generation=1, what="logs", reason="no space", agent="a", kept={"lines": 3}, dropped={"lines": 1}
        ),
        StorageAnswered(generation=1, what="the ledger", seconds=1.5, worker="a/0"),
        CheckpointsLeft(generation=1, reasons={"step-000010": "a link"}),
    ],
)
def test_they_come_back_as_they_were(event: Event) -> None:
    assert from_json(to_json(event)) == event
