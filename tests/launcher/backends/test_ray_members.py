"""A machine that is no node of a cluster is told so at once, with what it can do."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_choice import RayChoice, joining
from dougong.launcher.backends.ray_members import Member, refuse_outsider
from dougong.launcher.backends.ray_processes import LocalNode

SOON = dataclasses.replace(DEADLINES, node_known_s=0.2, poll_every_s=0.02)
HERE = socket.gethostname()
TO_ALL = "10.0.0.1:8265"


@dataclass
class Head:
    """A head with these nodes and this dashboard."""

    ids: Sequence[str]
    url: str = ""

    def members(self) -> list[Member]:
        return [Member(node, f"node{number}") for number, node in enumerate(self.ids)]

    def cluster(self) -> str:
        return "ours"

    def dashboard(self) -> str:
        return self.url


def told(head: Head, *nodes: LocalNode, choice: RayChoice | None = None) -> str:
    with pytest.raises(LaunchError) as caught:
        refuse_outsider(choice or joining("10.0.0.1:6379"), head, Path("runs/a"), SOON, lambda: list(nodes))
    return str(caught.value)


def test_a_node_of_the_cluster_passes() -> None:
    refuse_outsider(joining("head:6379"), Head("ab"), None, SOON, lambda: [LocalNode("b", "10.0.0.1:6379")])


def test_a_node_that_has_just_been_started_is_waited_for() -> None:
    head = Head("a")

    def here() -> list[LocalNode]:
        head.ids = "ab" if len(head.ids) > 1 else "a "
        return [LocalNode("b", "10.0.0.1:6379", cluster="ours")]

    refuse_outsider(joining("head:6379"), head, None, SOON, here)


def test_an_outsider_is_told_the_nodes_and_the_submission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["dougong", "run", "job.yaml", "--address", "10.0.0.1:6379"])
    monkeypatch.chdir(tmp_path)
    begin = (
        f"--address 10.0.0.1:6379: this machine ({HERE}) is no node of the cluster at 10.0.0.1:6379; type this on one "
        "of its nodes (node0, node1), or make this machine one (`ray start --address=10.0.0.1:6379`), or"
    )
    submit = f"`ray job submit --address http://10.0.0.1:8265 -- dougong run job.yaml --run-dir {tmp_path}/runs/a`"
    other = LocalNode("x", "10.0.0.9:6379", cluster="another")  # `ray stop` would end that one
    assert told(Head("ab", TO_ALL), other) == f"{begin} submit it: {submit}"
    loopback = ", where its head has --dashboard-host=10.0.0.1, submit it: "
    assert told(Head("ab", "127.0.0.1:8265")) == f"{begin}{loopback}{submit}"
    assert told(Head("ab")) == f"{begin}, where its head has `dougong[jobs]`, use `ray job submit`"


def test_of_many_nodes_some_are_named() -> None:
    assert "(node0, node1, node2, node3, 3 more)" in told(Head("abcdefg"))


def test_a_node_that_was_given_up_is_started_anew() -> None:
    advice = "the Ray node here has not joined it, or was given up by it: `ray stop`, then `ray start --address="
    assert advice in told(Head("a"), LocalNode("b", "10.0.0.1:6379", cluster="ours"))


def test_who_did_not_ask_for_a_cluster_is_told_how_to_do_without() -> None:
    choice = RayChoice("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379", is_typed=False)
    assert told(Head("a"), choice=choice).endswith(", or `--address local` for a Ray of the run's own")
