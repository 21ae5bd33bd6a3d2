"""A worker has an end of every bridge that its plan names, to the peers beyond it; they are closed with the world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from dougong.errors import DeviceError
from dougong.parallel.bridge.bridges import Bridges
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.island_paths import IslandPath
from tests.parallel.bridge.packages import offer_bridge

ISLANDS = (("a", "nccl", (0, 1)), ("b", "hccl", (2,)), ("c", "gloo", (3,)))
PATHS = (IslandPath("a", "b", "bridge", "toy"),)
SOURCE = """
from dougong.parallel.bridge.base import Bridge, BridgeEnd

class End(BridgeEnd):
    def __init__(self, site):
        self.site, self.said = site, []
        site.store.set(f'{site.member.rank}', 'here')

    def begin(self, sends, receives, wait):
        raise NotImplementedError

    def facts(self):
        return 'toy'

    def abort(self):
        self.said.append('abort')

    def close(self):
        self.said.append('close')

class Toy(Bridge):
    name = 'toy'

    def joins(self, one, other):
        return True

    def open(self, site):
        return End(site)
"""


def member(paths: tuple[IslandPath, ...] = PATHS) -> Membership:
    return Membership(0, 4, 1, "a", ISLANDS, torch.device("cpu"), (0, 1), paths=paths)


def test_an_end_for_each_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker 0 is on an island with worker 1; the plan has a package's bridge to worker 2, and none to worker 3, for
    which host memory is left."""
    offer_bridge(tmp_path, monkeypatch, "whole_toy:Toy")
    (tmp_path / "whole_toy.py").write_text(SOURCE)
    store = dist.HashStore()
    bridges = Bridges(member(), store)
    ends = bridges.open("rows", (), range(4), MessageThread)
    assert sorted(ends) == [2, 3] and ends[2].facts() == "toy" and "gloo" in ends[3].facts()
    site = ends[2].site  # type: ignore[attr-defined]
    assert (site.ranks, site.purpose) == ((0, 2), "rows")
    assert store.check(["toy/rows/0"]), "its keys are its own"
    bridges.abort()
    bridges.close()
    assert ends[2].said == ["abort", "close"]  # type: ignore[attr-defined]


def test_who_takes_no_part_has_no_end() -> None:
    assert Bridges(member(())).open("dense", (), (1, 2), MessageThread) == {}


def test_a_bridge_that_is_not_installed_here_is_refused() -> None:
    """The machine on which the job was planned has it."""
    with pytest.raises(DeviceError, match="bridge toy: not known; known are auto, host"):
        Bridges(member()).open("rows", (), range(4), MessageThread)


@pytest.mark.parametrize(
    ("paths", "ways"),
    [
        ((), ["native", "host-staged", "host-staged", "native", "host-staged", "host"]),
        (PATHS, ["native", "toy", "host-staged", "native", "host-staged", "host"]),
    ],
)
def test_ways_that_a_plan_does_not_name_follow_from_the_islands(paths: tuple[IslandPath, ...], ways: list[str]) -> None:
    found = member(paths)
    assert [path.name for path in found.paths_of_all] == ways
    assert found.has_bridges
    assert [found.path_to(rank).name for rank in range(4)] == [ways[0], ways[0], *ways[1:3]]


def test_processors_alone_have_no_bridge() -> None:
    alone = Membership(0, 2, 1, "a", (("a", "gloo", (0,)), ("b", "gloo", (1,))), torch.device("cpu"), (0,))
    assert not alone.has_bridges and Bridges(alone).open("rows", (), range(2), MessageThread) == {}
