"""What links give is a line of events.jsonl like any other."""

from __future__ import annotations

from dougong.parallel.bridge.measured import CopyRates, MeasuredLink
from dougong.records.events import LinksMeasured, from_json, to_json


def test_it_comes_back_as_it_was() -> None:
    link = MeasuredLink("a/0", "b/0", ("a", "b"), "host", 2e-4, 9.5e8, "gloo")
    event = LinksMeasured(generation=2, links=(link,), copies={"a/0": CopyRates(5e9, 6e9)})
    assert from_json(to_json(event)) == event
