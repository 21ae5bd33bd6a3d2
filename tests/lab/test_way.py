"""Which Ray a command finds from where it is typed, and what it says when it finds none."""

from __future__ import annotations

import re
import shlex
import signal

import pytest
from dougong.testing import Done, Host, HostProcess
from tests.lab.conftest import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ANYWHERE = [{"name": "east", "accelerator": "cpu", "workers": 2}]
NOBODY = {"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": None}
RAW = ("gcs_client.cc", "InvalidAuthToken", "Traceback", "WARNING", "INFO", "[202")


def ended(process: HostProcess) -> Done:
    return Done(process.wait(60), process.output, process.seconds)


def test_who_finds_no_way_is_told_which_one_there_is(cluster: Cluster) -> None:
    cluster.job("lost")
    client = cluster.address.replace("6379", "10001")
    refusals = {
        "token": (
            cluster.address, {},
            f"--address {cluster.address}: this machine (node3) is no node of the cluster at {cluster.address}; type "
            f"this on one of its nodes (node0, node1, node2), or make this machine one (`ray start --address="
            f"{cluster.address}`), or, where its head has `dougong[jobs]`, use `ray job submit`",
        ),
        "none": (cluster.address, NOBODY, "the cluster wants a token, and there is none here; export RAY_AUTH_MODE=to"),
        "wrong": (cluster.address, {"RAY_AUTH_TOKEN": "f" * 64}, "the cluster refuses the token of this shell; export"),
        "client": (f"ray://{client}", {}, f"use `--address {cluster.address}` (the address that `ray start --head` pr"),
        "submit": (f"ray://{client}", {}, "elsewhere `ray job submit --address http://10.0.0.1:8265 -- "),
        "auto": ("auto", {}, "--address auto: no Ray runs on this machine (node3); type this on a node of the cluster"),
        "nobody": ("10.0.0.2:6379", {}, "nobody answers ([Errno 111] Connection refused); on that machine type"),
    }  # fmt: skip
    started = {}
    for name, (address, env, _) in refusals.items():
        run = [*cluster.words("lost", address=address)[:-1], str(cluster.run_dir(name))]
        started[name] = cluster.outside.start(run, env)
    for name, (address, _, words) in refusals.items():
        done = ended(started[name])
        print(f"{name}: {done.seconds:.1f} s")
        assert done.status == (2 if address.startswith("ray://") else 1), done.output
        assert words in done.output, done.output
        assert not any(raw in done.output for raw in RAW), done.output


def next_line(text: str) -> list[str]:
    """What `next:` offers, as it would be typed."""
    found = re.search(r"^next: (.*)$", text, re.MULTILINE)
    assert found is not None, text
    return shlex.split(found[1])


@pytest.mark.slow
def test_what_ray_address_names_is_joined_recorded_and_found_again_from_another_node(cluster: Cluster) -> None:
    job = cluster.job("named", steps=400, islands=ANYWHERE)
    first = cluster.hosts[1].start(
        ["dougong", "run", str(job), "--run-dir", str(cluster.run_dir("named"))], {"RAY_ADDRESS": cluster.address}
    )
    first.wait_for("4/400 ", 60)
    first.signal(signal.SIGTERM)
    assert first.wait(60) == 128 + signal.SIGTERM, first.output
    assert f"joins the Ray cluster {cluster.address}, which RAY_ADDRESS names" in first.output
    (created,) = cluster.events("named", "created")
    assert created["address"] == cluster.address
    again = next_line(first.output)
    assert again[-2:] == ["--address", cluster.address]
    stopped_at = len(cluster.losses("named"))
    resumed = cluster.hosts[2].run([*again, "-o", f"steps={stopped_at + 2}"], timeout_s=120)
    assert resumed.status == 0, resumed.output
    assert len(cluster.losses("named")) == stopped_at + 2


@pytest.mark.slow
def test_a_ray_of_the_runs_own_beside_another_leaves_that_one_alone(cluster: Cluster) -> None:
    host, before = cluster.hosts[1], raylets(cluster.hosts[1])
    job = cluster.job("own", islands=ANYWHERE)
    words = ["dougong", "run", str(job), "--run-dir", str(cluster.run_dir("own"))]
    own = host.run(words, timeout_s=120)
    assert own.status == 0, own.output
    forced = host.run([*words[:-1], str(cluster.run_dir("forced")), "--address", "local"], 120, {"RAY_ADDRESS": "x:1"})
    assert forced.status == 0, forced.output
    assert "takes a Ray of the run's own, as --address says, not RAY_ADDRESS=x:1" in forced.output
    for name in ("own", "forced"):
        (created,) = cluster.events(name, "created")
        assert created["address"] == ""
        (agents,) = cluster.events(name, "agents_started")
        assert {agent["node"] for agent in agents["agents"]} == {"node1"}
    assert raylets(host) == before
    assert host.check(["sh", "-c", "ls /tmp | grep dougong-ray- || true"]).strip() == ""
    joined = cluster.run(host, "joined", address="auto", islands=ANYWHERE)
    assert joined.status == 0, joined.output
    assert f"joins the Ray cluster {cluster.address}" in joined.output
    assert cluster.losses("joined") == cluster.losses("own") == cluster.losses("forced")


def raylets(host: Host) -> set[int]:
    return {pid for pid, words in host.processes().items() if "/raylet/raylet" in words.split(" ")[0]}
