"""Agents that stand by on a cluster: one takes a dead machine's place, and a run without one shrinks and grows back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dougong.testing import HostProcess
from tests.lab.conftest import Cluster, pool_cluster, rejoin

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(1200)]

SLOW = {"attention_ms": 4.0, "expert_ms_per_1k_tokens": 1.0}
"""So a run lasts until a machine is back; no bit depends on it."""
EAST = {"name": "east", "accelerator": "cpu", "workers": 2, "node": "10.0.0.1", "emulate": SLOW}
WEST = {"name": "west", "accelerator": "cpu", "workers": 2, "node": "pool=b", "emulate": SLOW}
STEPS = 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pool_cluster() as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> str:
    anywhere = [{**island, "node": None, "emulate": None} for island in (EAST, WEST)]
    cluster.job("plain", islands=anywhere, steps=STEPS, checkpoint={"every": 100})
    words = ["dougong", "run", str(cluster.lab.shared / "plain.yaml"), "--no-ray"]
    cluster.hosts[0].check([*words, "--run-dir", str(cluster.run_dir("plain"))], timeout_s=500)
    return str(cluster.run_dir("plain"))


def begin(cluster: Cluster, name: str, west: dict[str, Any], **more: Any) -> HostProcess:
    process = cluster.start(
        cluster.hosts[0], name, islands=[EAST, west], steps=STEPS, checkpoint={"every": 100}, **more
    )
    cluster.await_step(name, 3, process)
    return process


def ends_alike(cluster: Cluster, process: HostProcess, name: str, undisturbed: str) -> None:
    assert process.wait(500) == 0, process.output
    said = cluster.hosts[0].check(["dougong", "diff", undisturbed, str(cluster.run_dir(name))], timeout_s=60)
    assert "equal, bit by bit" in said, said


@pytest.mark.parametrize("how", ["crash", "unplug"])
def test_a_spare_takes_the_place_of_a_machine_that_is_gone(cluster: Cluster, undisturbed: str, how: str) -> None:
    name = f"spare-{how}"
    process = begin(cluster, name, {**WEST, "spares": 1})
    (stands,) = cluster.events(name, "spare_stands")
    started = cluster.events(name, "agents_started")[0]["agents"]
    lost = next(h for h in cluster.hosts if h.name in {a["node"] for a in started if a["island"] == "west"})
    assert stands["node"] != lost.name
    getattr(lost, how)()
    process.wait_for("takes the place of agent west", timeout_s=60)
    ends_alike(cluster, process, name, undisturbed)
    (took,) = cluster.events(name, "spare_took")
    assert (took["node"], took["workers"]) == (stands["node"], ["west/0", "west/1"])
    assert not cluster.events(name, "waiting")
    if how == "unplug":
        lost.plug()
        lost.stop_ray()
    rejoin(cluster, lost)


def test_a_run_without_a_spare_shrinks_and_grows_back(cluster: Cluster, undisturbed: str) -> None:
    fault = {"without_spare": "shrink"}
    process = begin(cluster, "shrinks", {**WEST, "node": "10.0.0.2"}, fault=fault)
    cluster.hosts[1].crash()
    process.wait_for("the run goes on with 2 of 4 workers, without [west/0-1]", timeout_s=60)
    rejoin(cluster, cluster.hosts[1])
    process.wait_for("back to 4 workers", timeout_s=120)
    ends_alike(cluster, process, "shrinks", undisturbed)
    assert len(cluster.events("shrinks", "diagnosis")) == 1
    restored = [event["step"] for event in cluster.events("shrinks", "state_restored")]
    firsts = [event["step"] for event in cluster.events("shrinks", "first_step")]
    assert firsts[-1] == restored[-1] + 1
    rows = [row["step"] for row in cluster.read("shrinks").read_metrics()]
    assert rows.count(firsts[-1]) == 1 and rows.count(restored[-1]) == 1, "growing back has cost no step"
