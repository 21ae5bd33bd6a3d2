"""Networks as they are found: closed but for a few ports, a dead name server, slow, several interfaces, IPv6."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dougong.addresses import Ports
from dougong.testing import Host, Lab, RayCluster
from tests.lab.conftest import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

README = Path(__file__).resolve().parents[2] / "README.md"


def documented() -> tuple[list[str], list[tuple[int, int]]]:
    """README's commands that start Ray on ports of its own, and the ports that it says to open."""
    text = README.read_text().replace("\\\n", " ")
    steps = [line for line in text.splitlines() if line.startswith("ray start") and "--node-manager-port" in line]
    (sentence,) = re.findall(r"open the TCP ports ([\d, \nand-]+) between", text)
    ranges = [Ports.read(words) for words in re.findall(r"\d+-\d+", sentence)]
    return steps, [(one.first, one.last) for one in ranges]


def start_ray(host: Host, step: str, **env: str) -> None:
    """One of README's commands, with room for the lab's little memory."""
    host.check([*shlex.split(step), "--object-store-memory=80000000"], timeout_s=90, env=env)


def reachable_ports(host: Host) -> set[int]:
    """On which somebody listens whom others can reach."""
    found = set()
    for line in host.check(["ss", "-ltnH"]).splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if not address.startswith(("127.", "[::1]", "[::ffff:127.")):
            found.add(int(port))
    return found


def train(cluster: Cluster, name: str, **more: Any) -> str:
    """A run over node0 and node1, to its end and without an alarm; what it printed."""
    done = cluster.run(cluster.hosts[0], name, **more)
    assert done.status == 0, done.output
    assert "no progress" not in done.output
    assert "c10d" not in done.output
    return done.output


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """node0 and node1 with Ray as README starts it where there is a firewall."""
    (head, other), _ = documented()
    with Lab(num_hosts=3, env={"RAY_USAGE_STATS_ENABLED": "0"}) as lab:
        start_ray(lab.hosts[0], head)
        start_ray(lab.hosts[1], other)
        yield Cluster(lab, RayCluster("10.0.0.1:6379"))


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").lab.heal()


@pytest.fixture(scope="module")
def usual_losses(cluster: Cluster) -> list[float]:
    train(cluster, "usual")
    return cluster.losses("usual")


@pytest.mark.slow
def test_a_firewall_that_is_open_as_readme_says_lets_a_run_through(cluster: Cluster) -> None:
    hosts, (_, opened) = cluster.hosts[:2], documented()
    hosts[0].allow_only(opened, from_=hosts[1])
    hosts[1].allow_only(opened, from_=hosts[0])
    first, last = opened[-1]
    of_ray = {host.name: reachable_ports(host) for host in hosts}
    process = cluster.start(hosts[1], "closed", steps=60, checkpoint={"every": 0}, ports=f"{first}-{last}")
    process.wait_for(" 2/60 ", timeout_s=90)
    listening = {host.name: reachable_ports(host) for host in hosts}
    assert process.wait(90) == 0, process.output
    within = {port for low, high in opened for port in range(low, high + 1)}
    for name, ports in listening.items():
        assert ports - of_ray[name] <= within
    # Two workers and an agent on each, and the controller on node1.
    ours = {name: {port for port in ports if first <= port <= last} for name, ports in listening.items()}
    assert {name: len(ports) for name, ports in ours.items()} == {"node0": 11, "node1": 13}
    assert "c10d" not in process.output


@pytest.mark.slow
def test_ports_of_the_environment_that_are_too_few_are_refused_and_the_advice_holds(cluster: Cluster) -> None:
    job = cluster.job("few")
    words = cluster.words("few")
    done = cluster.hosts[0].run(words, timeout_s=60, env={"DOUGONG_PORTS": "20000-20007"})
    assert done.status != 0
    assert "node0, which needs 13: 5 for each of 2 workers" in done.output, done.output
    (advice,) = re.findall(r"such as (\d+-\d+)", done.output)
    done = cluster.hosts[0].run(words, timeout_s=60, env={"DOUGONG_PORTS": advice})
    assert done.status == 0, done.output
    assert "ports" not in job.read_text()
    cluster.job("many")
    done = cluster.hosts[0].run(cluster.words("many"), timeout_s=60, env={"DOUGONG_PORTS": "many"})
    assert done.status == 2
    assert "DOUGONG_PORTS=many: must be FIRST-LAST, such as 20000-20100" in done.output


@pytest.mark.slow
def test_a_dead_name_server_is_asked_for_no_name_of_a_worker(cluster: Cluster, usual_losses: list[float]) -> None:
    for host in cluster.lab.hosts:
        host.write_etc("hosts", "127.0.0.1 localhost\n")
    cluster.lab.kill_dns()
    output = train(cluster, "nameless")
    assert cluster.losses("nameless") == usual_losses
    assert "hostname" not in output


@pytest.mark.slow
@pytest.mark.parametrize("mb_s", [10, 1])
def test_a_slow_network_gives_the_same_losses_and_no_alarm(
    cluster: Cluster, usual_losses: list[float], mb_s: int
) -> None:
    cluster.lab.limit(mb_s)
    train(cluster, f"slow{mb_s}")
    assert cluster.losses(f"slow{mb_s}") == usual_losses


@pytest.fixture(scope="module")
def odd() -> Iterator[Cluster]:
    """Three hosts with more interfaces and addresses than they need; Ray runs on none yet.

    docker0 has the same address everywhere and the default route; so has eth0, before the address that others reach;
    and a host's own name is 127.0.1.1.
    """
    with Lab(num_hosts=3, env={"RAY_USAGE_STATS_ENABLED": "0"}) as lab:
        for host in lab.hosts:
            network = f"{host.address}/24"
            host.place.ip(
                [
                    "link add docker0 type bridge",
                    "addr add 172.17.0.1/16 dev docker0",
                    "link set docker0 up",
                    "route add default via 172.17.0.2 dev docker0",
                    f"addr del {network} dev eth0",
                    "addr add 192.168.1.1/32 dev eth0",
                    f"addr add {network} dev eth0",
                ]
            )
        lab.use_debian_hosts()
        yield Cluster(lab, RayCluster("10.0.0.1:6379"))


@pytest.mark.slow
def test_of_several_interfaces_that_of_the_controller_is_taken(odd: Cluster) -> None:
    (head, other), _ = documented()
    hosts = odd.hosts
    start_ray(hosts[0], head)
    start_ray(hosts[1], other, GLOO_SOCKET_IFNAME="ib9")
    by_name = [
        {"name": "east", "accelerator": "cpu", "workers": 2, "node": "node0"},
        {"name": "west", "accelerator": "cpu", "workers": 2, "node": "node1"},
    ]
    refused = odd.run(hosts[0], "absent", islands=by_name)
    assert refused.status != 0
    words = "GLOO_SOCKET_IFNAME=ib9: node1 has no such interface with an address; it has: docker0, eth0, lo"
    assert words in refused.output, refused.output
    hosts[1].stop_ray()
    start_ray(hosts[1], other)
    train(odd, "named", islands=by_name, address="node0:6379")
    for host in hosts[:2]:
        host.stop_ray()


@pytest.mark.slow
def test_a_cluster_of_ipv6_is_spoken_to_in_ipv6(odd: Cluster) -> None:
    """Also by gloo, although the interface's first address is one of IPv4 that nobody else reaches."""
    (head, other), _ = documented()
    hosts = odd.hosts
    for host in hosts:
        host.place.ip([f"addr del {host.address}/24 dev eth0"])
        names = "".join(f"{one.address6} {one.name}\n" for one in hosts)
        host.write_etc("hosts", f"127.0.0.1 localhost\n{names}")
    start_ray(hosts[0], head.replace("10.0.0.1", hosts[0].address6))
    join = other.replace("10.0.0.1:", f"[{hosts[0].address6}]:").replace("10.0.0.2", hosts[1].address6)
    start_ray(hosts[1], join)
    pins = [
        {"name": "east", "accelerator": "cpu", "workers": 2, "node": hosts[0].address6},
        {"name": "west", "accelerator": "cpu", "workers": 2, "node": "node1"},
    ]
    bracketed = f"[{hosts[0].address6}]:6379"
    train(odd, "six", islands=pins, address=bracketed, ports="20000-20100")
    process = odd.start(hosts[1], "auto", islands=pins, address="auto", steps=100000, checkpoint={"every": 0})
    process.wait_for(" 2/100000 ", timeout_s=90)
    assert odd.read("auto").read_controller().host == hosts[1].address6
    status = hosts[0].check(["dougong", "status", str(odd.run_dir("auto"))])
    assert "RUNNING" in status.upper()
    hosts[2].check(["dougong", "stop", str(odd.run_dir("auto"))], timeout_s=60)
    assert "stopped at step" in process.output
    train(odd, "plain", islands=pins, address=f"{hosts[0].address6}:6379")
    nobody = f"[{hosts[2].address6}]:6379"
    done = odd.run(hosts[0], "nobody", islands=pins, address=nobody)
    assert done.status == 1
    assert f"--address {nobody}: nobody answers" in done.output, done.output
