"""README's "Several machines" as it is written, on three hosts, and the bits of what they train."""

from __future__ import annotations

import pytest
from dougong.testing import Done
from tests.lab.conftest import PINNED, PROMPT_S, Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def finished(done: Done, cluster: Cluster, name: str) -> Done:
    assert done.status == 0, done.output
    assert len(cluster.losses(name)) == 8
    return done


def test_a_run_over_two_hosts_from_a_node_that_is_neither(cluster: Cluster) -> None:
    """Its bits are those of any other layout: the tests below compare theirs with it."""
    done = finished(cluster.run(cluster.hosts[2], "two-hosts"), cluster, "two-hosts")
    assert "[c10d]" not in done.output and "gcs_client.cc" not in done.output
    nodes = {agent["agent"]: agent["address"] for agent in cluster.events("two-hosts", "agents_started")[0]["agents"]}
    assert nodes == {"east": "10.0.0.1", "west": "10.0.0.2"}


def equal(cluster: Cluster, one: str, other: str) -> None:
    done = cluster.hosts[0].run(["dougong", "diff", str(cluster.run_dir(one)), str(cluster.run_dir(other))])
    assert done.status == 0 and "equal, bit by bit" in done.output, done.output


def reference(cluster: Cluster) -> str:
    """The run over two hosts; made here when a test runs alone."""
    if not cluster.run_dir("two-hosts").exists():
        finished(cluster.run(cluster.hosts[2], "two-hosts"), cluster, "two-hosts")
    return "two-hosts"


@pytest.mark.slow
def test_pins_by_host_name_and_the_head_by_name(cluster: Cluster) -> None:
    islands = [{**PINNED[0], "node": "node2"}, {**PINNED[1], "node": "node0"}]
    finished(cluster.run(cluster.hosts[1], "by-name", address="node0:6379", islands=islands), cluster, "by-name")
    nodes = {agent["agent"]: agent["address"] for agent in cluster.events("by-name", "agents_started")[0]["agents"]}
    assert nodes == {"east": "10.0.0.3", "west": "10.0.0.1"}
    equal(cluster, reference(cluster), "by-name")


@pytest.mark.slow
def test_one_host_has_the_bits_of_two(cluster: Cluster) -> None:
    islands = [{"name": "east", "accelerator": "cpu", "workers": 4, "node": "node0"}]
    finished(cluster.run(cluster.hosts[0], "one-host", address="auto", islands=islands), cluster, "one-host")
    equal(cluster, reference(cluster), "one-host")


@pytest.mark.slow
def test_attention_and_experts_apart_over_three_hosts_have_the_same_bits(cluster: Cluster) -> None:
    islands = [
        {"name": "front", "accelerator": "cpu", "workers": 2, "role": "attention", "node": "10.0.0.1"},
        {"name": "back", "accelerator": "cpu", "workers": 1, "role": "experts", "node": "10.0.0.2"},
        {"name": "last", "accelerator": "cpu", "workers": 1, "role": "experts", "node": "10.0.0.3"},
    ]
    finished(cluster.run(cluster.hosts[1], "apart", address="auto", islands=islands), cluster, "apart")
    equal(cluster, reference(cluster), "apart")


@pytest.mark.slow
def test_a_refused_start_says_which_nodes_there_are_and_its_advice_works(cluster: Cluster) -> None:
    islands = [PINNED[0], {**PINNED[1], "node": "node9"}]
    refused = cluster.run(cluster.hosts[1], "nowhere", islands=islands)
    assert refused.status != 0 and refused.seconds < PROMPT_S
    assert "node9" in refused.output and "node1" in refused.output and "10.0.0.2" in refused.output
    finished(cluster.run(cluster.hosts[1], "nowhere", address="auto"), cluster, "nowhere")

    npu = [PINNED[0], {"name": "west", "accelerator": "npu", "workers": 1, "node": "node2"}]
    refused = cluster.run(cluster.hosts[1], "no-npu", islands=npu)
    assert refused.status != 0
    assert "asks for 1 npu worker" in refused.output and "node2 (10.0.0.3) has 0 npu" in refused.output


@pytest.mark.slow
def test_a_run_directory_of_one_host_alone_is_refused_and_the_advice_works(cluster: Cluster) -> None:
    """The default, `runs/...` in the folder where one stands: here the launching host's own home."""
    job = cluster.job("relative")
    refused = cluster.hosts[0].run(["dougong", "run", str(job), "--address", "auto"], timeout_s=120)
    assert refused.status != 0
    assert "node1" in refused.output and "--run-dir" in refused.output, refused.output
    finished(cluster.run(cluster.hosts[0], "relative"), cluster, "relative")
