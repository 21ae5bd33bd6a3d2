"""Whether this machine is a node of the cluster that a run is to join: a controller reaches agents
through the Ray node of its own machine, and Ray waits a minute for one that is not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.backends.head_address import is_loopback, split_address
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
    is submitted to them. A node that has just been started has `address_probe_s` to join."""
    deadline = time.monotonic() + deadlines.address_probe_s
    while True:
        here, members = nodes_here(), head.members()
        if {node.id for node in here} & {member.id for member in members}:
            return
        joins = any(_same_port(node.head, choice.address or "") for node in here)
        if not joins or time.monotonic() > deadline:
            break
        time.sleep(deadlines.poll_every_s)
    advice = _to_join(choice) if joins else _from_outside(choice, head, members, run)
    raise LaunchError(
        f"{choice.origin}: this machine ({socket.gethostname()}) is no node of the cluster at "
        f"{choice.address}; {advice}{choice.or_own}"
    )


def _to_join(choice: RayChoice) -> str:
    return (
        "the Ray node here has not joined it, or was given up by it: `ray stop`, then "
        f"`ray start --address={choice.address}`"
    )


def _from_outside(
    choice: RayChoice, head: ClusterHead, members: Sequence[Member], run: Path | None
) -> str:
    names = [member.name for member in members[:_NAMED]]
    if len(members) > _NAMED:
        names.append(f"{len(members) - _NAMED} more")
    return (
        f"type this on one of its nodes ({', '.join(names)}), or make this machine one "
        f"(`ray start --address={choice.address}`), {_by_submission(choice, head.dashboard(), run)}"
    )


def _by_submission(choice: RayChoice, dashboard: str, run: Path | None) -> str:
    """How a run is submitted from here. A dashboard listens on its own machine alone unless it is
    told otherwise."""
    place, cluster = split_address(dashboard), split_address(choice.address or "")
    if place is None or cluster is None:
        return "or, where its head has `dougong[jobs]`, use `ray job submit`"
    if not is_loopback(place[0]):
        return f"or submit it: `{submission(f'http://{dashboard}', run)}`"
    command = submission(f"http://{cluster[0]}:{place[1]}", run)
    return (
        f"or, where its head was started with --dashboard-host={cluster[0]}, submit it: `{command}`"
    )


def _same_port(head: str, address: str) -> bool:
    """Whether a node's head may be the one at this address: it can have several names."""
    one, other = split_address(head), split_address(address)
    return one is not None and other is not None and one[1] == other[1]
