"""A part of Ray is lost while a run trains, or the machine of its head with the command that was typed there; then a
worker, an agent, or a machine. Training goes on without Ray; what needs Ray waits for another one, of another cluster
id; and `dougong resume --address NEW` goes on with the agents and workers that live, as if nothing had been."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.control.environment import child_environment
from dougong.records.directory import RunDir
from dougong.testing import Host, HostProcess, Lab
from dougong.tools.drill.comparison import compare
from tests.lab.conftest import Cluster, job_values
from tests.launcher.toyrun import ROOT, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SLOW = {"attention_ms": 30.0, "expert_ms_per_1k_tokens": 1.0}
"""So that a run lasts until a loss is noticed; no bit depends on it."""
EAST = {"name": "east", "accelerator": "cpu", "workers": 1, "node": "pool=a"}
WEST = {"name": "west", "accelerator": "cpu", "workers": 1, "node": "pool=b"}
SLOW_ISLANDS = [{**EAST, "emulate": SLOW}, {**WEST, "emulate": SLOW}]
STEPS = 100
LOSSES = ("worker", "agent", "node")
NAME = "run"
FIRST_ID = "cluster-id"
"""A file: of the Ray that the run began with."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The head on node0, which nobody trains on; east on node1, west on node2 or node3."""
    with Lab(num_hosts=4) as lab:
        made = Cluster(lab, lab.hosts[0].start_ray(num_cpus=1))
        begin_nodes(made, lab.hosts[1:])
        (lab.shared / FIRST_ID).write_text(cluster_id(lab.hosts[0], made.address))
        yield made


def begin_nodes(cluster: Cluster, hosts: list[Host]) -> None:
    for host in hosts:
        pool = "a" if host is cluster.lab.hosts[1] else "b"
        host.start_ray(cluster.ray, num_cpus=2, labels={"pool": pool})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The same job on one machine, without Ray: bits do not depend on the layout."""
    folder = tmp_path_factory.mktemp("undisturbed")
    islands = [{**island, "node": None} for island in (EAST, WEST)]
    values = job_values(type("Shared", (), {"shared": folder})(), **job(islands=islands))  # type: ignore[arg-type]
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    words = ["run", str(folder / "job.yaml"), "--no-ray", "--run-dir", str(folder / NAME)]
    subprocess.run([sys.executable, "-m", "dougong", *words], cwd=ROOT, env=child_environment({}), check=True)
    return RunDir(folder / NAME)


def job(**changes: Any) -> dict[str, Any]:
    return {"islands": [EAST, WEST], "steps": STEPS, "checkpoint": {"every": 100, "keep": 3}, **changes}


def begin(cluster: Cluster, host: Host, **changes: Any) -> HostProcess:
    process = cluster.start(host, NAME, **job(**changes))
    cluster.await_step(NAME, 3, process)
    return process


def agents(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """Machine and process of each, under the newest controller."""
    newest = cluster.events(NAME, "agents_started")[-1]["agents"]
    return {agent["agent"]: (agent["node"], agent["pid"]) for agent in newest}


def workers(cluster: Cluster) -> dict[str, int | None]:
    status = cluster.read(NAME).read_status()
    assert status is not None
    return {worker.name: worker.pid for worker in status.workers}


def host_of(cluster: Cluster, agent: str) -> Host:
    return next(host for host in cluster.lab.hosts if host.name == agents(cluster)[agent][0])


def steps(cluster: Cluster) -> list[int]:
    return [row["step"] for row in cluster.read(NAME).read_metrics()]


def lose(cluster: Cluster, loss: str) -> Host:
    """West's worker, its agent, or its machine; that machine."""
    host = host_of(cluster, "west")
    if loss == "node":
        host.power_off()
        host.plug()
        return host
    if loss == "worker":
        host.check(["kill", "-9", str(workers(cluster)["west/0"])])
        return host
    (pid,) = (pid for pid, words in host.processes().items() if "dougong agent " in words)
    os.kill(pid, signal.SIGKILL)
    return host


def goes_on(cluster: Cluster, process: HostProcess, before: int) -> None:
    def has_begun() -> bool:
        assert process.status is None, process.output
        return len(cluster.events(NAME, "first_step")) > before

    wait_for(has_begun, "training again", 120)


def ends_alike(cluster: Cluster, process: HostProcess, undisturbed: RunDir) -> None:
    assert process.wait(240) == 0, process.output
    assert str(compare(cluster.read(NAME), undisturbed, STEPS)) == "the same bits"
    wait_for(lambda: not left_of(cluster), f"nothing is left: {left_of(cluster)}", 30)


def left_of(cluster: Cluster) -> list[str]:
    """Processes of a run."""
    words = [one for host in cluster.lab.hosts for one in host.processes().values()]
    return [one for one in words if "dougong.launcher" in one or "dougong agent" in one or "dougong run" in one]


CLUSTER_ID = """
import sys
from ray._raylet import GcsClient
print("cluster id", GcsClient(address=sys.argv[1]).cluster_id.hex())
"""


def cluster_id(host: Host, address: str) -> str:
    """Of the Ray whose head is there."""
    (line,) = re.findall("cluster id ([0-9a-f]{20,})", host.check([sys.executable, "-c", CLUSTER_ID, address]))
    return str(line)


def renew_ray(cluster: Cluster, head: Host) -> str:
    """What an operator does whose head has died: `ray stop` would take the agents, too. Its new address."""
    for host in cluster.lab.hosts:
        if any("raylet" in words for words in host.processes().values()):
            host.kill_named("raylet")
    pool = "head" if head is cluster.lab.hosts[0] else "b"
    cluster.ray = head.start_ray(num_cpus=2, labels={"pool": pool})
    begin_nodes(cluster, [host for host in cluster.lab.hosts[1:] if host is not head])
    assert cluster_id(head, cluster.address) != (cluster.lab.shared / FIRST_ID).read_text(), "another Ray"
    return cluster.address


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_whose_heads_machine_is_lost_is_resumed_over_another_ray(
    cluster: Cluster, undisturbed: RunDir, loss: str
) -> None:
    process = begin(cluster, cluster.lab.hosts[0], islands=SLOW_ISLANDS)
    kept, living = agents(cluster), workers(cluster)
    cluster.lab.hosts[0].power_off()
    process.wait(20)
    (head,) = (host for host in cluster.lab.hosts[2:] if host is not host_of(cluster, "west"))
    address = renew_ray(cluster, head)
    last = steps(cluster)[-1]
    resumed = head.start(["dougong", "resume", str(cluster.run_dir(NAME)), "--address", address])
    goes_on(cluster, resumed, 1)
    assert agents(cluster) == kept
    wait_for(lambda: workers(cluster) == living, f"the same workers: {living}", 20)
    _, second = cluster.events(NAME, "first_step")
    assert second["step"] >= last, "at most one step is computed again"
    (restored,) = cluster.events(NAME, "state_restored")[-1:]
    assert "checkpoint" not in restored["tiers"], restored
    before = len(cluster.events(NAME, "first_step"))
    lose(cluster, loss)
    goes_on(cluster, resumed, before)
    ends_alike(cluster, resumed, undisturbed)


@pytest.mark.slow
def test_stop_ends_agents_that_wait_for_a_resume(cluster: Cluster) -> None:
    """Typed on a machine that lives. Nothing of the run is left."""
    process = begin(cluster, cluster.lab.hosts[0], islands=SLOW_ISLANDS, checkpoint={"every": 3, "keep": 2})
    cluster.lab.hosts[0].power_off()
    process.wait(20)
    stopped = cluster.lab.hosts[2].start(["dougong", "stop", str(cluster.run_dir(NAME))])
    assert stopped.wait(90) == 0, stopped.output
    assert "the agents that waited for a resume end within seconds: stopped at step" in stopped.output
    wait_for(lambda: not left_of(cluster), f"nothing is left: {left_of(cluster)}", 60)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_outlives_the_head_and_needs_no_other_ray_but_for_another_node(
    cluster: Cluster, undisturbed: RunDir, loss: str
) -> None:
    """The next Ray is of another cluster id; the agents that live are the same under it."""
    process = begin(cluster, cluster.lab.hosts[1], islands=SLOW_ISLANDS)
    (east,) = agent_pids(cluster.lab.hosts[1])
    cluster.lab.hosts[0].kill_named("gcs_server")
    process.wait_for("Ray's head at 10.0.0.1:6379 does not answer", timeout_s=30)
    before = len(cluster.events(NAME, "first_step"))
    lose(cluster, loss)
    if loss != "worker":
        process.wait_for("waiting: a node for west/0: --address 10.0.0.1:6379: nobody answers", timeout_s=60)
        renew_ray(cluster, cluster.lab.hosts[0])
    goes_on(cluster, process, before)
    assert agent_pids(cluster.lab.hosts[1]) == [east]
    ends_alike(cluster, process, undisturbed)


def agent_pids(host: Host) -> list[int]:
    """As the host's own process namespace numbers them."""
    said = host.check(["sh", "-c", "grep -l '^dougong agent' /proc/[0-9]*/cmdline || true"])
    return [int(Path(line).parent.name) for line in said.split()]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_a_raylet_that_is_killed_costs_nothing_whatever_is_lost_next(
    cluster: Cluster, undisturbed: RunDir, loss: str
) -> None:
    process = begin(cluster, cluster.lab.hosts[1], islands=SLOW_ISLANDS)
    host_of(cluster, "west").kill_named("raylet")
    process.wait_for("Ray holds nothing for agent west any more", timeout_s=60)
    before = len(cluster.events(NAME, "first_step"))
    lose(cluster, loss)
    goes_on(cluster, process, before)
    ends_alike(cluster, process, undisturbed)
