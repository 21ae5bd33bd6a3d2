"""Who stands by and who is missing, as the screen has it while a run goes on."""

from __future__ import annotations

from dougong.records.events import RunCreated, RunGrown, RunShrunk, SpareLost, SpareStands, SpareTook
from dougong.ui.event_words import ReserveView


def test_the_view_follows_the_events() -> None:
    view = ReserveView()
    view.note(SpareStands(generation=1, agent="west-spare-1", node="node2"))
    assert view.lines() == ["west-spare-1 on node2 stands by"]
    took = SpareTook(generation=1, agent="west-spare-1", node="node2", place="west", workers=("west/0",))
    view.note(took)
    assert view.lines() == []
    view.note(RunShrunk(generation=2, before=3, now=1, missing=("west/0", "west/1"), reason="x"))
    view.note(SpareStands(generation=2, agent="west-spare-2", node="node1"))
    assert view.lines() == [
        "west-spare-2 on node1 stands by",
        "goes on without west/0-1, until there is a node",
    ]
    view.note(RunGrown(generation=3, before=1, now=2, workers=("west/0",), agents=("west-spare-2",)))
    assert view.lines() == ["goes on without west/1, until there is a node"]
    view.note(SpareStands(generation=3, agent="west-spare-3", node="node1"))
    view.note(SpareLost(generation=3, agent="west-spare-3", node="node1", reason="x"))
    view.note(RunCreated(generation=4, job="toy"))
    assert view.lines() == []
