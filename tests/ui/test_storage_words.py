"""What is said of storage that refuses."""

from __future__ import annotations

from dougong.records.events import GenerationStarted, StorageAnswered, StorageTroubled
from dougong.storage.trouble import Trouble
from dougong.ui.storage_words import OpenTroubles, healed_words, trouble_words, unwritten_words

FULL = StorageTroubled(
    generation=1, what="its log", reason="no space", worker="a/0", dropped={"lines": 1200}, monotonic_s=5
)
RECORDS = StorageTroubled(generation=1, what="the run's records", reason="no space", kept={"events": 3}, monotonic_s=6)


def test_it_is_said_who_cannot_write_what_and_what_becomes_of_it() -> None:
    assert trouble_words(FULL) == "[a/0] its log cannot be written: no space; dropped: 1,200 of lines"
    assert trouble_words(RECORDS) == "the run's records cannot be written: no space; kept in memory: 3 of events"
    over = StorageAnswered(generation=1, what="logs", agent="a", seconds=16.0, dropped={"lines": 2})
    assert healed_words(over) == "agent a: logs can be written again, after 16 s; lost: 2 of lines"
    left = Trouble("the run's records", "no space", 1.0, kept=(("events", 3),), dropped=(("rows", 2),))
    assert unwritten_words(left).endswith("cannot be written: no space; never written: 3 of events, 2 of rows")


def test_what_is_open_is_told_until_it_is_over() -> None:
    told = OpenTroubles()
    for event in (FULL, RECORDS, RECORDS.model_copy(update={"reason": "read-only", "monotonic_s": 9})):
        told.note(event)
    assert told.words(10.0).endswith("read-only; kept in memory: 3 of events (for 4.0 s)")
    told.note(GenerationStarted(generation=2, workers=("a/0",)))  # the worker has ended
    assert told.lines() == [trouble_words(RECORDS.model_copy(update={"reason": "read-only"}))]
    told.note(StorageAnswered(generation=2, what="the run's records", seconds=4.0))
    assert told.lines() == [] and told.words(10.0) == ""
