"""A node that goes and comes: the run finds another, or waits and says so, and its bits stay the same."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dougong.testing import Host, HostProcess
from tests.lab.conftest import Cluster, pool_cluster, rejoin

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

EAST = {"name": "east", "accelerator": "cpu", "workers": 2, "node": "10.0.0.1"}
WEST = {"name": "west", "accelerator": "cpu", "workers": 2, "node": "pool=b"}
STEPS = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pool_cluster() as made:
        yield made


@pytest.fixture(autouse=True)
def mended(cluster: Cluster) -> Iterator[None]:
    """The next test finds all nodes there, whatever has become of this one."""
    yield
    for host in cluster.hosts:
        host.plug()
        if not any("raylet" in words for words in host.processes().values()):
            rejoin(cluster, host)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> str:
    """The run directory of the same job on one machine, without Ray: bits do not depend on the layout."""
    anywhere = [{**island, "node": None} for island in (EAST, WEST)]
    cluster.job("plain", **job(islands=anywhere))
    words = ["dougong", "run", str(cluster.lab.shared / "plain.yaml"), "--no-ray"]
    cluster.hosts[0].check([*words, "--run-dir", str(cluster.run_dir("plain"))], timeout_s=120)
    return str(cluster.run_dir("plain"))


def job(**changes: Any) -> dict[str, Any]:
    return {"islands": [EAST, WEST], "steps": STEPS, "checkpoint": {"every": 5, "keep": 3}, **changes}


def pinned(**changes: Any) -> dict[str, Any]:
    """West may run on node1 alone."""
    return job(islands=[EAST, {**WEST, "node": "10.0.0.2"}], **changes)


def begin(cluster: Cluster, name: str, host: int = 0, **changes: Any) -> tuple[HostProcess, Host, Host]:
    """A run that trains: its process, the host of west, and the other one that is like it."""
    process = cluster.start(cluster.hosts[host], name, **(changes or job()))
    process.wait_for(f"step  6/{STEPS}", timeout_s=90)
    started = cluster.events(name, "agents_started")[0]["agents"]
    where = [agent["node"] for agent in started if agent["island"] == "west"]
    _, node1, node2 = cluster.hosts
    return (process, node1, node2) if where[0] == node1.name else (process, node2, node1)


def ends_alike(cluster: Cluster, process: HostProcess, name: str, undisturbed: str) -> None:
    """The run finishes, with one recovery and the bits of the undisturbed one."""
    assert process.wait(150) == 0, process.output
    assert len(cluster.events(name, "recovered")) == 1, process.output
    said = cluster.hosts[0].check(["dougong", "diff", undisturbed, str(cluster.run_dir(name))], timeout_s=60)
    assert "equal, bit by bit" in said, said


def moves(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    """From which node to which workers went in the recovery."""
    moved = cluster.events(name, "planned")[-1]["moved"]
    return {(one["before"], one["now"]) for one in moved}


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def left_behind(host: Host) -> list[str]:
    """Command lines of this host's agents, fork servers and workers."""
    mine = ("AgentActor", "dougong.launcher", "dougong run")
    return [words for words in host.processes().values() if any(mark in words for mark in mine)]


def test_a_node_that_is_stopped_is_replaced_by_the_idle_one(cluster: Cluster, undisturbed: str) -> None:
    process, lost, idle = begin(cluster, "stopped")
    lost.stop_ray()
    ends_alike(cluster, process, "stopped", undisturbed)
    assert moves(cluster, "stopped") == {(lost.name, idle.name)}
    assert f"west/0-1: {lost.name} -> {idle.name}" in process.output
    assert "waiting:" not in process.output
    assert left_behind(lost) == []
    report = (cluster.run_dir("stopped") / "report.html").read_text()
    assert f"{lost.name} -&gt; {idle.name}" in report


def test_a_node_that_died_hard_is_taken_by_its_new_id(cluster: Cluster, undisturbed: str) -> None:
    """Ray lists the dead one for half a minute beside the living."""
    process, lost, _ = begin(cluster, "killed", **pinned())
    lost.kill_ray()
    rejoin(cluster, lost)
    ends_alike(cluster, process, "killed", undisturbed)
    assert moves(cluster, "killed") == set()
    assert left_behind(lost) == []


def test_a_pinned_node_that_is_gone_for_a_while_is_awaited(cluster: Cluster, undisturbed: str) -> None:
    process, lost, _ = begin(cluster, "awaited", **pinned())
    lost.stop_ray()
    said = process.wait_for("waiting: a node for west/0-1", timeout_s=15)
    assert "10.0.0.2" in said
    status = cluster.hosts[2].check(["dougong", "status", str(cluster.run_dir("awaited"))])
    assert "recovering" in status and "waiting: a node for west/0-1" in status, status
    time.sleep(10)
    rejoin(cluster, lost)
    ends_alike(cluster, process, "awaited", undisturbed)


def test_a_pinned_node_that_never_comes_ends_the_run_and_a_resume_goes_on(cluster: Cluster, undisturbed: str) -> None:
    apart = [{**EAST, "role": "attention"}, {**WEST, "role": "experts", "node": "10.0.0.2"}]  # neither can do alone
    changes = job(islands=apart, fault={"deadlines": {"node_return_s": 5}})
    process, lost, _ = begin(cluster, "given-up", **changes)
    lost.stop_ray()
    assert process.wait(40) == 1, process.output
    said = process.output
    assert "the controller waited 5 s (fault.deadlines.node_return_s) for a node for west/0-1" in said
    assert "agent west on node1: preemption: SIGTERM: this machine is taken from the run" in said and "10.0.0.2" in said
    run = str(cluster.run_dir("given-up"))
    assert "next: " in said and f"dougong resume {run}" in said
    rejoin(cluster, lost)
    words = ["dougong", "resume", run, "--address", cluster.address]
    cluster.hosts[2].check(words, timeout_s=120)
    assert "equal, bit by bit" in cluster.hosts[0].check(["dougong", "diff", undisturbed, run], timeout_s=60)


def test_a_node_that_is_added_during_the_wait_is_taken(cluster: Cluster, undisturbed: str) -> None:
    cluster.hosts[2].stop_ray()
    process, lost, new = begin(cluster, "added")
    lost.stop_ray()
    process.wait_for("waiting: a node for west/0-1", timeout_s=15)
    rejoin(cluster, new)
    ends_alike(cluster, process, "added", undisturbed)
    assert moves(cluster, "added") == {(lost.name, new.name)}


@pytest.mark.parametrize("by", ["dougong stop", "Ctrl-C"])
def test_a_stop_ends_the_wait(cluster: Cluster, by: str) -> None:
    name = by.replace(" ", "-")
    process, lost, _ = begin(cluster, name, **pinned())
    lost.stop_ray()
    process.wait_for("waiting: a node for west/0-1", timeout_s=15)
    if by == "Ctrl-C":
        process.signal(signal.SIGINT)
    else:
        cluster.hosts[2].check(["dougong", "stop", str(cluster.run_dir(name))], timeout_s=30)
    assert process.wait(20) == 130, process.output
    assert cluster.events(name, "stopped"), process.output
    for host in cluster.hosts:
        until(lambda host=host: not left_behind(host), f"nothing left on {host.name}", 15)


def test_a_node_that_is_cut_off_ends_its_workers_and_is_not_let_in_again(cluster: Cluster, undisturbed: str) -> None:
    process, lost, idle = begin(cluster, "cut-off")
    lost.unplug()
    process.wait_for(f"west/0-1: {lost.name} -> {idle.name}", timeout_s=60)
    time.sleep(15)  # its agent hears nothing for 20 s by then
    lost.plug()
    ends_alike(cluster, process, "cut-off", undisturbed)
    (diagnosis,) = cluster.events("cut-off", "diagnosis")
    assert (diagnosis["class"], diagnosis["culprit"]["kind"]) == ("node_lost", "node"), process.output
    until(lambda: not left_behind(lost), "no agent and no worker is left", 40)
    lost.stop_ray()


def test_a_run_whose_controllers_node_is_lost_goes_on_from_any_other(cluster: Cluster, undisturbed: str) -> None:
    process, _, _ = begin(cluster, "headless", host=1)
    _, lost, other = cluster.hosts
    lost.crash()
    lost.unplug()
    process.wait(20)
    run = str(cluster.run_dir("headless"))
    resumed = other.run(["dougong", "resume", run, "--address", cluster.address], timeout_s=150)
    assert resumed.status == 0 and "does not renew its lease; it runs out in" in resumed.output, resumed.output
    assert "equal, bit by bit" in cluster.hosts[0].check(["dougong", "diff", undisturbed, run], timeout_s=60)
