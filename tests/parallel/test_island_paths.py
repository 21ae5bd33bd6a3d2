"""The way between two islands is found from either side."""

from __future__ import annotations

from dougong.parallel.island_paths import IslandPath, path_between

PATHS = (IslandPath("a", "a", "native"), IslandPath("a", "b", "bridge", "toy"))


def test_it_is_the_same_from_both_sides() -> None:
    assert path_between(PATHS, "a", "b") is path_between(PATHS, "b", "a") is PATHS[1]
    assert path_between(PATHS, "a", "a") is PATHS[0]
    assert path_between(PATHS, "b", "b") is None


def test_it_is_called_by_its_bridge() -> None:
    assert [(path.name, path.is_bridged) for path in PATHS] == [("native", False), ("toy", True)]
    staged, host = IslandPath("a", "b", "host-staged"), IslandPath("a", "b", "host")
    assert (staged.name, staged.is_bridged, host.name, host.is_bridged) == ("host-staged", True, "host", False)
