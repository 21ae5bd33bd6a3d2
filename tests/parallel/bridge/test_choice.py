"""Which way bytes take between islands: a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.parallel.bridge.choice import Shore, choose_paths
from tests.parallel.bridge.packages import offer_bridge

SHORES = [
    Shore("a", "cuda", computes_on_host=False, has_library=True),
    Shore("b", "npu", computes_on_host=False, has_library=True),
    Shore("c", "cpu", computes_on_host=True, has_library=False),
    Shore("d", "cuda", computes_on_host=False, has_library=False),
]
FLOOR = {
    ("a", "a"): "native", ("a", "b"): "host-staged", ("a", "c"): "host-staged", ("a", "d"): "host-staged",
    ("b", "b"): "native", ("b", "c"): "host-staged", ("b", "d"): "host-staged",
    ("c", "c"): "host", ("c", "d"): "host-staged",
    ("d", "d"): "host-staged",
}  # fmt: skip
BETWEEN_DEVICES = {("a", "b"), ("a", "d"), ("b", "d"), ("d", "d")}


def chosen(bridge: str) -> dict[tuple[str, str], str]:
    return {(path.one, path.other): path.name for path in choose_paths(SHORES, bridge)}


@pytest.mark.parametrize("bridge", ["auto", "host"])
def test_without_packages_all_goes_through_host_memory(bridge: str) -> None:
    assert chosen(bridge) == FLOOR


def test_auto_takes_a_package_where_it_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_bridge(tmp_path, monkeypatch, "toy_bridge:Toy")
    assert chosen("auto") == FLOOR | dict.fromkeys(BETWEEN_DEVICES, "toy")
    assert chosen("host") == FLOOR


def test_a_bridge_that_is_named_joins_all_that_need_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_bridge(tmp_path, monkeypatch, "toy_bridge:Toy")
    paths = choose_paths(SHORES[:2], "toy")
    assert [(path.way, path.name) for path in paths] == [("native", "native"), ("bridge", "toy"), ("native", "native")]
