"""Parts of Ray die while a run trains: its head, and what it has on a node. Training needs neither; a recovery that
needs another node waits for them, and says so."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dougong.testing import Host, HostProcess, Lab
from tests.lab.conftest import Cluster
from tests.launcher.toyrun import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

EAST = {"name": "east", "accelerator": "cpu", "workers": 1, "node": "10.0.0.2"}
WEST = {"name": "west", "accelerator": "cpu", "workers": 1, "node": "pool=b"}
STEPS = 60
PATIENT = {"RAY_raylet_start_wait_time_s": "80"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The head on node0, which nobody trains on; the controller on node1; node2 and node3 are alike (`pool=b`)."""
    with Lab(num_hosts=4) as lab:
        made = Cluster(lab, lab.hosts[0].start_ray(num_cpus=1))
        begin_nodes(made)
        yield made


def begin_nodes(cluster: Cluster) -> None:
    for host in cluster.lab.hosts[1:]:
        labels = {"pool": "a" if host is cluster.lab.hosts[1] else "b"}
        host.start_ray(cluster.ray, num_cpus=2, labels=labels, env=PATIENT)


def renew(cluster: Cluster) -> None:
    """What an operator does whose head has died."""
    for host in cluster.lab.hosts:
        host.stop_ray()
    cluster.lab.hosts[0].start_ray(num_cpus=1)
    begin_nodes(cluster)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> str:
    """The run directory of the same job on one machine, without Ray: bits do not depend on the layout."""
    cluster.job("plain", **job(islands=[{**EAST, "node": None}, {**WEST, "node": None}]))
    words = ["dougong", "run", str(cluster.lab.shared / "plain.yaml"), "--no-ray"]
    cluster.hosts[0].check([*words, "--run-dir", str(cluster.run_dir("plain"))], timeout_s=120)
    return str(cluster.run_dir("plain"))


def job(**changes: Any) -> dict[str, Any]:
    return {"islands": [EAST, WEST], "steps": STEPS, "checkpoint": {"every": 5, "keep": 3}, **changes}


def begin(cluster: Cluster, name: str, **changes: Any) -> tuple[HostProcess, Host]:
    """A run that trains, and the host of west."""
    process = cluster.start(cluster.hosts[1], name, **job(**changes))
    cluster.await_step(name, 3, process)
    agents = {agent["agent"]: agent["node"] for agent in cluster.events(name, "agents_started")[0]["agents"]}
    return process, next(host for host in cluster.lab.hosts if host.name == agents["west"])


def agent_of(host: Host) -> int:
    (agent,) = (pid for pid, words in host.processes().items() if "dougong agent " in words)
    return agent


def kill_worker(cluster: Cluster, name: str, host: Host) -> None:
    """West's, and see the run go on."""
    status = cluster.read(name).read_status()
    assert status is not None
    (pid,) = (worker.pid for worker in status.workers if worker.name == "west/0")
    before = len(cluster.events(name, "first_step"))
    host.check(["kill", "-9", str(pid)])
    wait_for(lambda: len(cluster.events(name, "first_step")) > before, "training again", 60)


def nothing_is_left(cluster: Cluster) -> None:
    def left() -> list[str]:
        words = [one for host in cluster.lab.hosts for one in host.processes().values()]
        return [one for one in words if "dougong.launcher" in one or "AgentActor" in one or "dougong run" in one]

    wait_for(lambda: not left(), f"nothing is left: {left()}", 20)


def equal(cluster: Cluster, process: HostProcess, name: str, undisturbed: str) -> None:
    assert process.wait(150) == 0, process.output
    said = cluster.hosts[0].check(["dougong", "diff", undisturbed, str(cluster.run_dir(name))], timeout_s=60)
    assert "equal, bit by bit" in said, said
    nothing_is_left(cluster)


def test_a_raylet_that_is_killed_costs_nothing_until_its_agent_is_lost(cluster: Cluster, undisturbed: str) -> None:
    process, west = begin(cluster, "raylet", steps=400)
    west.kill_named("raylet")
    process.wait_for("Ray holds nothing for agent west any more", timeout_s=30)
    assert "training goes on, and needs Ray only to find another node" in process.output
    assert not cluster.events("raylet", "diagnosis"), process.output
    kill_worker(cluster, "raylet", west)
    os.kill(agent_of(west), signal.SIGKILL)
    (other,) = (host for host in cluster.lab.hosts[2:] if host is not west)
    process.wait_for(f"west/0: {west.name} -> {other.name}", timeout_s=60)
    cluster.hosts[0].check(["dougong", "stop", str(cluster.run_dir("raylet"))], timeout_s=60)
    assert process.wait(60) == 130, process.output
    nothing_is_left(cluster)
    west.stop_ray()
    west.start_ray(cluster.ray, num_cpus=2, labels={"pool": "b"})


def test_without_its_head_a_run_waits_for_a_node_until_ray_is_there_again(cluster: Cluster, undisturbed: str) -> None:
    process, west = begin(cluster, "awaited")
    cluster.hosts[0].kill_named("gcs_server")
    os.kill(agent_of(west), signal.SIGKILL)
    process.wait_for("waiting: a node for west/0: --address 10.0.0.1:6379: nobody answers", timeout_s=30)
    assert "waits 600 s (fault.deadlines.node_return_s) at most" in process.output
    process.wait_for("Ray's head at 10.0.0.1:6379 does not answer", timeout_s=20)
    status = cluster.hosts[2].check(["dougong", "status", str(cluster.run_dir("awaited"))])
    assert "Ray's head at 10.0.0.1:6379 does not answer" in status, status
    renew(cluster)
    equal(cluster, process, "awaited", undisturbed)
    assert "Ray answers again" in process.output, process.output


def test_a_run_outlives_ray_by_half_a_minute_and_more(cluster: Cluster) -> None:
    """A minute after its head has died Ray ends its drivers, its actors, what they have started, and every node."""
    process, west = begin(cluster, "headless", steps=100_000)
    cluster.hosts[0].kill_named("gcs_server")
    process.wait_for("Ray's head at 10.0.0.1:6379 does not answer", timeout_s=20)
    time.sleep(90)
    assert process.status is None, process.output
    assert not [one for host in cluster.lab.hosts for one in host.processes().values() if "raylet" in one]
    assert not cluster.events("headless", "diagnosis"), process.output
    kill_worker(cluster, "headless", west)
    assert [event["part"] for event in cluster.events("headless", "ray")] == ["head"], "told once"
    cluster.outside.check(["dougong", "stop", str(cluster.run_dir("headless"))], timeout_s=60)
    assert process.wait(60) == 130, process.output
    nothing_is_left(cluster)
    renew(cluster)
