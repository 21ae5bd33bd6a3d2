"""What crosses bridges has all connections of its direction."""

from __future__ import annotations

from typing import Any

from dougong.parallel.comm.world_groups import WorldGroups


def test_the_first_connection_is_the_one_that_there_always_is() -> None:
    attention, dispatch, combine, more, others = (object() for _ in range(5))
    groups: Any = {"attention": attention, "far": {"dispatch": dispatch, "combine": combine}}
    found = WorldGroups(**groups, more={None: (more,), "dispatch": (others,)})  # type: ignore[dict-item]
    assert found.connections(None) == (attention, more)
    assert found.connections("dispatch") == (dispatch, others)
    assert found.connections("combine") == (combine,)
    assert WorldGroups().connections(None) == WorldGroups().connections("dispatch") == ()
