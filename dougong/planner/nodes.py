"""The machines that may run agents, and which of them an island's `node` means. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dougong.errors import NoRoomError
from dougong.job.schema import Island

_LEAST_ID_LENGTH = 8
_MOST_NAMED = 12
"""So many nodes are named in one error; of the others, how many there are."""

UNNAMED = "-"
"""The node of a plan's workers where the job names none and no run has placed them yet."""


@dataclass(frozen=True)
class Node:
    """A machine that may run agents.

    `devices`: how many of each accelerator it has; those whose workers share the machine are not
    counted. `free`: how many of them nobody holds; None: all. `holders`: who holds the others, in
    words. `cpus`: how many it offers, and `free_cpus` those that nobody holds (None: all).
    `resources`: names of what its owner has marked it with. `gone`: in words, since when it does
    not answer, empty for one that does. `keys`: its devices by number, where all agents there know
    them by the same one; `left_out`: keys of those that are in quarantine.
    """

    id: str
    name: str
    address: str
    devices: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    given_name: str = ""
    free: Mapping[str, int] | None = None
    holders: tuple[str, ...] = ()
    cpus: float = 0.0
    free_cpus: float | None = None
    resources: frozenset[str] = frozenset()
    gone: str = ""
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people: `node1 (10.0.0.2)`."""
        return self.name if self.name == self.address else f"{self.name} ({self.address})"

    @property
    def order(self) -> tuple[str, str, str]:
        """By this, nodes that are equal otherwise come one after the other."""
        return self.name, self.address, self.id

    def matches(self, wish: str) -> bool:
        """Whether `island.node` means this node: its address, name, id (or how that begins), a
        label `key=value`, or the name of a resource that it has."""
        key, equals, value = wish.partition("=")
        if equals:
            return self.labels.get(key) == value
        if wish in (self.address, self.name, self.given_name) or wish in self.resources:
            return True
        if _is_same_address(wish, self.address):
            return True
        return len(wish) >= _LEAST_ID_LENGTH and self.id.startswith(wish.lower())

    def count(self, kind: str) -> int:
        """How many devices of a kind it has."""
        return self.devices.get(kind, 0)

    def count_free(self, kind: str) -> int:
        """How many of them nobody holds."""
        free = self.devices if self.free is None else self.free
        return free.get(kind, 0)

    def numbers(self, kind: str) -> list[int]:
        """Of the devices that nobody holds, without those whose number is known to be in
        quarantine."""
        left_out, keys = self.left_out.get(kind, ()), self.keys.get(kind, ())
        bad = [number for number, key in enumerate(keys) if key in left_out]
        return [number for number in range(self.count_free(kind)) if number not in bad]

    def words_on(self, kind: str, left: int) -> str:
        """`alpha (10.0.0.1) has 4 cuda, 1 free, held by job other`. `left`: how many of them can be
        had."""
        total, free = self.count(kind), self.count_free(kind)
        words = f"{self.title} has {total} {kind}"
        if self.left_out.get(kind):
            words += f", {len(self.left_out[kind])} in quarantine"
        if left == total:
            return words
        if free < total and self.holders:
            return f"{words}, {left} free, held by {' and '.join(self.holders)}"
        return f"{words}, {left} free"


def _is_same_address(wish: str, address: str) -> bool:
    """Whether both are the same IP address: one of IPv6 can be written in many ways."""
    try:
        return ipaddress.ip_address(wish.strip("[]")) == ipaddress.ip_address(address)
    except ValueError:
        return False


def words_on_quarantine(nodes: Sequence[Node], kind: str) -> str:
    """How devices of these nodes are used again; empty where none is in quarantine."""
    keys: list[str] = []
    for node in nodes:
        keys += node.left_out.get(kind, ())
    if not keys:
        return ""
    lift = f"-o 'fault.quarantine.lift=[{', '.join(keys)}]'"
    return f"; `dougong resume` with {lift} uses devices again that have been mended"


def allowed_nodes(island: Island, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes that answer and where an island may run. NoRoomError where there is none."""
    wanted = tuple(node for node in nodes if island.node is None or node.matches(island.node))
    answering = tuple(node for node in wanted if not node.gone)
    if answering:
        return answering
    if island.node is None:
        problem = "needs a node, and none answers"
    elif wanted:
        gone = "; ".join(f"{node.title} is known and {node.gone}" for node in wanted)
        problem = f"is pinned to node {island.node!r}: {gone}"
    else:
        problem = f"is pinned to node {island.node!r}"
    living = [node.title for node in nodes if not node.gone]
    raise NoRoomError(
        f"island {island.name} {problem}; the nodes are: {listed(living) or 'none'}; mend "
        f"islands.{island.name}.node (address, host name, id, label key=value or the name of a "
        "resource), or start that node"
    )


def listed(words: Sequence[str]) -> str:
    """As many of them as a person reads, and how many more there are."""
    shown = ", ".join(words[:_MOST_NAMED])
    more = len(words) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
