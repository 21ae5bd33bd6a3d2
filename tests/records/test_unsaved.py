"""Since when a run is not saved, by its events."""

from __future__ import annotations

import pytest
from dougong.records.events import CheckpointCommitted, CheckpointFailed, Event, RunCreated
from dougong.records.unsaved import unsaved_words

SAVED = CheckpointCommitted(generation=1, step=10, directory="step-000010", num_bytes=1, seconds=0.1)
FIRST = CheckpointFailed(generation=1, step=5, reason="full")
SECOND = CheckpointFailed(generation=1, step=20, reason="full", newest=10, in_a_row=2)
RESUMED = RunCreated(generation=2, job="tiny")


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], ""),
        ([FIRST], "no checkpoint yet: full"),
        ([FIRST, SAVED], ""),
        ([SAVED, SECOND], "no checkpoint since step 10 (2 in a row failed): full"),
        ([SAVED, SECOND, RESUMED], ""),
    ],
)
def test_what_is_so_until_the_next_one_is_committed(events: list[Event], words: str) -> None:
    assert unsaved_words(events) == words
