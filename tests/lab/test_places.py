"""Where islands go on three hosts, what they are told to wait for, and agents that cannot start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dougong.testing import HostProcess, Lab
from tests.lab.conftest import PROMPT_S, Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """node0 (head) and node1 offer two processors, node2 one and two NPUs that nobody looks for."""
    with Lab(num_hosts=4) as lab:
        head, one, two = lab.hosts[:3]
        ray = head.start_ray(num_cpus=2, labels={"group": "left"})
        one.start_ray(ray, num_cpus=2, labels={"group": "right"}, resources={"east": 1})
        two.start_ray(ray, num_cpus=1, labels={"group": "right"}, resources={"NPU": 2})
        yield Cluster(lab, ray)


@pytest.fixture(autouse=True)
def fresh(fresh_runs: None) -> None:
    """Every test has run directories of its own."""


def island(name: str, workers: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "accelerator": "cpu", "workers": workers, **more}


def places(cluster: Cluster, name: str) -> dict[str, str]:
    """Agent -> its machine."""
    (started,) = cluster.events(name, "agents_started")
    return {agent["agent"]: agent["node"] for agent in started["agents"]}


SPREAD = [island("east", 2), island("west", 2)]


@pytest.mark.slow
def test_islands_without_a_pin_go_to_nodes_of_their_own(cluster: Cluster) -> None:
    done = cluster.run(cluster.hosts[1], "spread", steps=2, islands=SPREAD)
    assert done.status == 0, done.output
    assert places(cluster, "spread") == {"east": "node0", "west": "node1"}


@pytest.mark.slow
def test_an_island_that_fits_no_node_spans_them_to_the_same_bits(cluster: Cluster) -> None:
    assert cluster.run(cluster.hosts[1], "spread", steps=2, islands=SPREAD).status == 0
    done = cluster.run(cluster.hosts[0], "span", steps=2, islands=[island("east", 3, node="group=right")])
    assert done.status == 0, done.output
    assert places(cluster, "span") == {"east-0": "node1", "east-2": "node2"}
    assert cluster.losses("span") == cluster.losses("spread")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pin", "machine"),
    [("group=left", "node0"), ("east", "node1"), ("NPU-none", None), ("node2", "node2"), ("10.0.0.3", "node2")],
)
def test_a_pin_by_label_resource_name_or_address(cluster: Cluster, pin: str, machine: str | None) -> None:
    done = cluster.run(cluster.hosts[0], "pin", "--wait", "2", steps=2, islands=[island("east", 1, node=pin)])
    if machine is None:
        assert done.status == 1 and done.seconds < PROMPT_S
        assert "waiting: island east is pinned to node 'NPU-none'; the nodes are: node0 (10.0.0.1)" in done.output
        assert "waited 2 s (--wait SECONDS)" in done.output
    else:
        assert done.status == 0, done.output
        assert places(cluster, "pin") == {"east": machine}


HOLD = """
import sys, time, ray
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_cpus=0, resources={"NPU": 1})
class Holder:
    def ready(self): return True
holder = Holder.remote()
ray.get(holder.ready.remote())
print("held", flush=True)
sys.stdin.read() if len(sys.argv) > 1 else time.sleep(600)
"""


def hold(cluster: Cluster, folder: Path) -> HostProcess:
    """Another driver takes one of node2's NPUs."""
    script = folder / "hold.py"
    script.write_text(HOLD)
    process = cluster.hosts[1].start(["python", str(script)])
    process.wait_for("held", 60)
    return process


@pytest.mark.slow
def test_devices_that_another_job_holds_are_told_at_once_and_taken_when_they_are_free(cluster: Cluster) -> None:
    islands = [{"name": "east", "accelerator": "npu", "workers": 2}]
    holder = hold(cluster, cluster.lab.shared)
    told = (
        "island east asks for 2 npu workers, one device each, but only 1 device is free (node2 (10.0.0.3) has 2 npu, "
        "1 free, held by `"
    )
    short = cluster.run(cluster.hosts[0], "short", "--wait", "2", islands=islands)
    assert short.status == 1 and short.seconds < PROMPT_S
    assert f"waiting: {told}" in short.output and "hold.py` on 10.0.0.2 (1 NPU))" in short.output
    assert "waited 2 s (--wait SECONDS)" in short.output
    none = cluster.run(cluster.hosts[0], "none", "--wait", "0", islands=islands)
    assert none.status == 1 and "waiting:" not in none.output and "waited 0 s (--wait SECONDS)" in none.output

    stopped = cluster.start(cluster.hosts[0], "stopped", islands=islands)
    stopped.wait_for(f"waiting: {told}", 30)
    done = cluster.hosts[2].run(["dougong", "stop", str(cluster.run_dir("stopped"))], timeout_s=30)
    assert done.status == 0 and done.seconds < PROMPT_S, done.output
    assert stopped.wait(10) == 130

    goes_on = cluster.start(cluster.hosts[0], "goes-on", islands=islands)
    goes_on.wait_for("waiting: ", 30)
    status = cluster.hosts[1].run(["dougong", "status", str(cluster.run_dir("goes-on"))], timeout_s=30)
    assert f"waiting: {told}" in status.output
    holder.signal(signal.SIGTERM)
    # The agents start, and look for their devices: none of this machine is one.
    goes_on.wait(60)
    assert cluster.events("goes-on", "waiting")
    assert "npu" in goes_on.output and "waited" not in goes_on.output
    assert "node2: accelerator npu" in goes_on.output, goes_on.output


@pytest.mark.slow
def test_a_node_that_died_is_named_and_one_that_came_back_is_pinned_by_its_living_id(cluster: Cluster) -> None:
    two = cluster.hosts[2]
    two.kill_ray()
    islands = [island("east", 1, node="node2")]
    done = cluster.run(cluster.hosts[0], "dead", "--wait", "1", steps=2, islands=islands)
    assert done.status == 1 and done.seconds < PROMPT_S, done.output
    assert "is pinned to node 'node2': node2 (10.0.0.3) is known and " in done.output, done.output
    waits = cluster.start(cluster.hosts[0], "back", "--wait", "60", steps=2, islands=islands)
    waits.wait_for("waiting: island east is pinned to node 'node2'", 30)
    two.start_ray(cluster.ray, num_cpus=1, labels={"group": "right"}, resources={"NPU": 2})
    assert waits.wait(60) == 0, waits.output
    assert places(cluster, "back") == {"east": "node2"}
    assert cluster.run(cluster.hosts[0], "again", steps=2, islands=islands).status == 0


@pytest.mark.slow
def test_dougong_missing_on_one_node_is_told_in_two_seconds_and_nobody_else_is_named(cluster: Cluster) -> None:
    one = cluster.hosts[1]
    one.stop_ray()
    bare = cluster.lab.shared / "bare"
    bare.mkdir(exist_ok=True)
    (bare / "sitecustomize.py").write_text(
        "import sys\nclass Nobody:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'dougong':\n"
        "            raise ModuleNotFoundError(\"No module named 'dougong'\", name='dougong')\n"
        "sys.meta_path.insert(0, Nobody())\n"
    )
    try:
        one.start_ray(cluster.ray, num_cpus=2, env={"PYTHONPATH": str(bare)})
        islands = [island("east", 1, node="node0"), island("west", 1, node="node1")]
        done = cluster.run(cluster.hosts[0], "missing", islands=islands)
        assert done.status == 1 and done.seconds < PROMPT_S, done.output
        assert "agent west on node1 (10.0.0.2): ModuleNotFoundError: No module named 'dougong'; install" in done.output
        assert "agent east" not in done.output
        whole = cluster.run_dir("missing") / "logs" / "0" / "agent-west" / "0.log"
        assert f"(all of it: {whole})" in done.output and "creation task" in whole.read_text()
    finally:
        one.stop_ray()
        one.start_ray(cluster.ray, num_cpus=2, labels={"group": "right"}, resources={"east": 1})
