"""Paths between machines that are closed, narrow, or closed later: what is told, and that its advice holds."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from dougong.records.events import StepGivenUp
from dougong.testing import Host
from tests.lab.conftest import PROMPT_S, Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

FAR = [
    {"name": "east", "accelerator": "cpu", "workers": 1, "node": "10.0.0.2"},
    {"name": "west", "accelerator": "cpu", "workers": 1, "node": "10.0.0.3"},
]
SYSTEM = (32768, 60999)
OPEN = re.compile(r"TCP ports (\d+)-(\d+) of (node\d) \((\S+)\) to ([\d., ]+\d)")
"""What an advice says to open, literally."""


@pytest.fixture(autouse=True)
def healed(cluster: Cluster, fresh_runs: None) -> Iterator[None]:
    yield
    cluster.lab.heal()


def close(*pairs: tuple[Host, Host], ports: list[int | tuple[int, int]]) -> None:
    """Of each pair the second takes no new connections from the first but to these ports."""
    for sender, receiver in pairs:
        receiver.allow_only(ports, from_=sender)


def ports_of_ray(cluster: Cluster) -> list[int | tuple[int, int]]:
    """What Ray listens on now, and where it lets its workers listen."""
    found: set[int] = set()
    for host in cluster.hosts:
        for line in host.check(["ss", "-Hltn"]).splitlines():
            found.add(int(line.split()[3].rpartition(":")[2]))
    return [*sorted(found), (10002, 19999)]


def follow(cluster: Cluster, said: str) -> None:
    """Open what the advice says, where it says so, and nothing else."""
    by_address = {host.address: host for host in cluster.hosts}
    advice = OPEN.findall(said)
    assert advice, said
    cluster.lab.heal()
    base = ports_of_ray(cluster)
    for first, last, _, target, sources in advice:
        for source in sources.split(", "):
            by_address[target].allow_only([*base, (int(first), int(last))], from_=by_address[source])


def train(cluster: Cluster, name: str, **changes: Any) -> None:
    done = cluster.run(cluster.hosts[0], name, steps=2, **{"islands": FAR, **changes})
    assert done.status == 0, done.output


@pytest.mark.slow
def test_two_nodes_that_are_closed_to_one_another_are_named_and_opened_they_train(cluster: Cluster) -> None:
    _, one, two = cluster.hosts
    close((one, two), (two, one), ports=ports_of_ray(cluster))
    done = cluster.run(cluster.hosts[0], "closed", islands=FAR)
    assert done.status == 1 and done.seconds < PROMPT_S, done.output
    assert re.search(r"node\d \(\S+\) and node\d \(\S+\) are closed to one another, both ways: port \d+ did not answer "
                     r"within 2 s \(fault\.deadlines\.path_s\)", done.output), done.output  # fmt: skip
    follow(cluster, done.output)
    train(cluster, "opened")


@pytest.mark.slow
def test_one_direction_is_told_as_one(cluster: Cluster) -> None:
    _, one, two = cluster.hosts
    close((one, two), ports=ports_of_ray(cluster))
    done = cluster.run(cluster.hosts[0], "one-way", islands=FAR)
    assert done.status == 1 and done.seconds < PROMPT_S
    assert "node1 (10.0.0.2) does not reach node2 (10.0.0.3), though node2 (10.0.0.3) reaches node1" in done.output
    follow(cluster, done.output)
    train(cluster, "both-ways")


@pytest.mark.slow
def test_a_node_that_nobody_reaches_is_one_sentence(cluster: Cluster) -> None:
    head, one, two = cluster.hosts
    close((head, two), (one, two), ports=ports_of_ray(cluster))
    done = cluster.run(head, "island", islands=[*FAR, {**FAR[0], "name": "home", "node": "10.0.0.1"}])
    assert done.status == 1 and done.seconds < PROMPT_S
    assert "  node2 (10.0.0.3) is reached by nobody: port" in done.output
    assert done.output.count("did not answer") <= 2 * done.output.count("is reached by nobody")
    follow(cluster, done.output)
    train(cluster, "reached")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["opened", "ports"])
def test_a_firewall_that_allows_rays_ports_alone_is_told_by_the_agent_that_meets_it(cluster: Cluster, way: str) -> None:
    """All nodes closed to one another; opened as the message says, or with `ports` that the job names, it trains."""
    hosts = cluster.hosts
    pairs = [(a, b) for a in hosts for b in hosts if a is not b]
    base = ports_of_ray(cluster)
    close(*pairs, ports=base)
    done = cluster.run(hosts[0], "rays-ports", islands=FAR)
    assert done.status == 1 and done.seconds < PROMPT_S, done.output
    said = (r"node[12] \(10\.0\.0\.[23]\) does not reach the controller at 10\.0\.0\.1:\d+: no answer within 2 s; "
            r"open the TCP ports 32768-60999 of 10\.0\.0\.1 to 10\.0\.0\.[23]")  # fmt: skip
    assert re.search(said, done.output), done.output
    cluster.lab.heal()
    chosen = (20000, 20100) if way == "ports" else SYSTEM
    close(*pairs, ports=[*base, chosen])
    train(cluster, way, **({"ports": "20000-20100"} if way == "ports" else {}))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["real", "virtual"])
def test_large_packets_that_the_switch_drops_are_told_with_what_to_set(cluster: Cluster, way: str) -> None:
    cluster.lab.set_mtu(9000)
    if way == "virtual":  # it hands on whole what the system has made of several packets
        for host in cluster.hosts:
            assert host.run(["ip", "link", "set", "dev", "eth0", "gso_max_segs", "65535"]).status == 0
    done = cluster.run(cluster.hosts[0], f"jumbo-{way}", islands=FAR)
    assert done.status == 1 and done.seconds < PROMPT_S, done.output
    told = r"node[12] \(10\.0\.0\.[23]\).* takes small messages at 10\.0\.0\.[23]:\d+, and no 64 KiB within 2 s"
    assert re.search(told, done.output), done.output
    assert "(eth0, MTU 9000 here); `ip link set dev eth0 mtu 1500` here and there" in done.output
    cluster.lab.set_mtu(1500)
    train(cluster, f"normal-{way}")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["stop", "SIGINT"])
def test_a_stop_ends_workers_that_have_lost_each_other(cluster: Cluster, by: str) -> None:
    head, one, two = cluster.hosts
    limits = {"deadlines": {"stop_step_s": 4.0, "hang_s": 60.0}}  # else the partition is named first
    name = f"lost-{by}"
    run = cluster.start(head, name, islands=FAR, steps=100_000, fault=limits, checkpoint={"every": 20})
    run.wait_for("checkpoint of step 20", 60)
    cluster.lab.drop(one, two, both_ways=True)
    if by == "SIGINT":
        run.signal(signal.SIGINT)
    else:
        stopped = two.run(["dougong", "stop", str(cluster.run_dir(name))], timeout_s=30)
        assert stopped.status == 0, stopped.output
        assert re.search(r"waits for step \d+ to end: ", stopped.output), stopped.output
        assert "the step did not end: no worker has moved for 4 s (fault.deadlines.stop_step_s)" in stopped.output
    assert run.wait(30) == 130, run.output
    given_up = [event for event in cluster.read(name).read_events() if isinstance(event, StepGivenUp)]
    assert [event.checkpoint is not None for event in given_up] == [True]
    assert len(given_up[0].workers) == 2
