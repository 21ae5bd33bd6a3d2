"""Machines that die or are cut off from each other: suspected in a second, named for what they are."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dougong.testing import Lab
from tests.lab.conftest import Cluster
from tests.launcher.toyrun import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

ISLANDS = [
    {"name": "east", "accelerator": "cpu", "workers": 2, "node": "10.0.0.2"},
    {"name": "west", "accelerator": "cpu", "workers": 1, "node": "10.0.0.3"},
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Ray's head on node0, where the controllers run; the workers are on node1 and node2."""
    with Lab(num_hosts=3) as lab:
        made = Cluster(lab, lab.hosts[0].start_ray(num_cpus=2))
        for host in lab.hosts[1:]:
            host.start_ray(made.ray, num_cpus=2)
        yield made


Trouble = Callable[[Cluster], None]
CASES: dict[str, tuple[Trouble, tuple[str, str], str, str]] = {
    "the cable between the two is cut": (
        lambda made: made.lab.drop(made.hosts[1], made.hosts[2], both_ways=True),
        ("link", "node1 - node2"),
        "partition",
        "node1 and node2 do not reach each other",
    ),
    "one way between the two is cut": (
        lambda made: made.lab.drop(made.hosts[1], made.hosts[2]),
        ("link", "node1 - node2"),
        "partition",
        "what node1 sends does not reach node2",
    ),
    "a machine is cut off from all": (
        lambda made: made.hosts[2].unplug(),
        ("node", "node2"),
        "node_lost",
        "nothing comes from it, and nothing reaches it",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cut_is_suspected_in_a_second_and_named(cluster: Cluster, case: str) -> None:
    trouble, culprit, failure, why = CASES[case]
    name = "cut-" + case.replace(" ", "-")
    changes: dict[str, Any] = {"islands": ISLANDS, "steps": 5000, "fault": {"deadlines": {"node_return_s": 5.0}}}
    process = cluster.start(cluster.hosts[0], name, **changes)
    try:
        cluster.await_step(name, 8, process)
        at = time.monotonic()
        trouble(cluster)
        wait_for(lambda: cluster.events(name, "suspect"), f"a suspicion: {process.output}", 30)
        diagnosed = wait_for(lambda: cluster.events(name, "diagnosis"), f"a diagnosis: {process.output}", 60)
        # On a busy machine a worker may be suspected before what it waits for is.
        suspected = cluster.events(name, "suspect")
        named = [event for event in suspected if event["culprit"]["kind"] != "worker"]
        print(case, "suspected", named[0]["monotonic_s"] - at, "named", diagnosed[0]["monotonic_s"] - at)
        assert (diagnosed[0]["culprit"]["kind"], diagnosed[0]["culprit"]["name"]) == culprit, diagnosed
        assert diagnosed[0]["class"] == failure
        assert why in diagnosed[0]["cause"]
        assert diagnosed[0]["evidence"] and diagnosed[0]["latency_s"] > 0
    finally:
        cluster.lab.heal()
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGTERM)
        process.wait(120)
