"""Who or what a failure began with. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CulpritKind = Literal[
    "worker",
    "workers",
    "agent",
    "fork_server",
    "node",
    "link",
    "device",
    "storage",
    "head",
    "raylet",
    "controller",
]


@dataclass(frozen=True)
class Culprit:
    """What failed first. `name`: a worker's or an agent's, of a fork server its agent's, of a link
    both of its ends, of `workers` none: nobody knows which of them it was; `node`: the machine on
    which it is, empty where all of the run is on one, or where the name says it."""

    kind: CulpritKind
    name: str
    node: str = ""

    def __str__(self) -> str:
        """`west/0 on node1`, `agent west on node1`, `fork server of agent west`, `node node1`."""
        match self.kind:
            case "worker":
                what = self.name
            case "fork_server":
                what = f"fork server of agent {self.name}"
            case kind:
                what = f"{kind} {self.name}".rstrip()
        return f"{what} on {self.node}" if self.node else what

    @property
    def worker(self) -> str:
        """The worker's name; empty for everything else."""
        return self.name if self.kind == "worker" else ""
