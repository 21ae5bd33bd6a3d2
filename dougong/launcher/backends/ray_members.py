"""Whether this machine is a node of the cluster that a run is to join: a controller reaches agents
through the Ray node of its own machine, and Ray waits a minute for one that is not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dougong.addresses import is_loopback, read_address, show_address
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_choice import RayChoice
from dougong.launcher.backends.ray_processes import LocalNode, local_nodes
from dougong.launcher.backends.submission import submission

_NAMED = 4


@dataclass(frozen=True)
class Member:
    """A node of a cluster, alive for its head. `name`: its machine's."""

    id: str
    name: str


class ClusterHead(Protocol):
    """What is asked of a cluster's head."""

    def members(self) -> Sequence[Member]:
        """The nodes that are alive."""

    def cluster(self) -> str:
        """By which it knows its cluster, apart from any other."""

    def dashboard(self) -> str:
        """HOST:PORT where jobs can be submitted; empty where they cannot."""


def refuse_outsider(
    choice: RayChoice,
    head: ClusterHead,
    run: Path | None,
    deadlines: Deadlines,
    nodes_here: Callable[[], Sequence[LocalNode]] = local_nodes,
) -> None:
    """LaunchError when this machine is no node of the cluster: it says which are, and how the run
    is submitted to them. A node that has just been started has `node_known_s` to join."""
    address, cluster = choice.address or "", head.cluster()
    deadline = time.monotonic() + deadlines.node_known_s
    while True:
        here, members = nodes_here(), head.members()
        if {node.id for node in here} & {member.id for member in members}:
            return
        joins = any(node.cluster == cluster for node in here)
        if not joins or time.monotonic() > deadline:
            break
        time.sleep(deadlines.poll_every_s)
    advice = _to_join(address) if joins else _from_outside(address, head, members, run)
    raise LaunchError(
        f"{choice.origin}: this machine ({socket.gethostname()}) is no node of the cluster at "
        f"{address}; {advice}{choice.or_own}"
    )


def _to_join(address: str) -> str:
    return (
        "the Ray node here has not joined it, or was given up by it: `ray stop`, then "
        f"`ray start --address={address}`"
    )


def _from_outside(
    address: str, head: ClusterHead, members: Sequence[Member], run: Path | None
) -> str:
    names = sorted(member.name for member in members)
    if len(names) > _NAMED:
        names = [*names[:_NAMED], f"{len(names) - _NAMED} more"]
    return (
        f"type this on one of its nodes ({', '.join(names)}), or make this machine one "
        f"(`ray start --address={address}`), {_by_submission(address, head.dashboard(), run)}"
    )


def _by_submission(address: str, dashboard: str, run: Path | None) -> str:
    """How a run is submitted from here. A dashboard listens on its own machine alone unless it is
    told otherwise."""
    if not dashboard:
        return "or, where its head has `dougong[jobs]`, use `ray job submit`"
    host, port = read_address(dashboard)
    if not is_loopback(host):
        return f"or submit it: `{submission(f'http://{dashboard}', run)}`"
    host = read_address(address)[0]
    command = submission(f"http://{show_address(host, port)}", run)
    return f"or, where its head has --dashboard-host={host}, submit it: `{command}`"
