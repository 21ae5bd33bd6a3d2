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


class Head(Protocol):
    """What is asked of a cluster's head."""

    def members(self) -> Sequence[Member]:
        """The nodes that are alive."""

    def dashboard(self) -> str:
        """HOST:PORT where jobs can be submitted; empty where they cannot."""


def refuse_outsider(
    choice: RayChoice,
    head: Head,
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
    raise LaunchError(
        f"{choice.origin}: this machine ({socket.gethostname()}) is no node of the cluster at "
        f"{choice.address}; {_what_to_do(choice, head, members, run, joins)}{choice.or_own}"
    )


def _what_to_do(
    choice: RayChoice, head: Head, members: Sequence[Member], run: Path | None, joins: bool
) -> str:
    join = f"`ray start --address={choice.address}`"
    if joins:
        return f"the Ray node here was given up by it, or has not joined: `ray stop`, then {join}"
    names = [member.name for member in members]
    more = f", {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    nodes = f" ({', '.join(names[:_NAMED])}{more})" if names else ""
    known = f"type this on one of its nodes{nodes}, or make this machine one ({join})"
    dashboard = head.dashboard()
    parts = split_address(dashboard)
    if parts is None:
        return f"{known}; where its head has `dougong[jobs]`, `ray job submit` is another way"
    if is_loopback(parts[0]):
        host = (split_address(choice.address or "") or ("",))[0]
        asked = submission(f"http://{host}:{parts[1]}", run)
        return f"{known}; or, if its head is started with --dashboard-host={host}, `{asked}`"
    return f"{known}, or submit it: `{submission(f'http://{dashboard}', run)}`"


def _same_port(head: str, address: str) -> bool:
    """Whether a node's head may be the one at this address: it can have several names."""
    one, other = split_address(head), split_address(address)
    return one is not None and other is not None and one[1] == other[1]
