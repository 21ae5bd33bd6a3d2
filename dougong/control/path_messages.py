"""What controller and agents say to each other of the paths between their machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CONTROLLER = "the controller"
"""The name of the controller's own end of a path; every other end has its agent's."""

Finding = Literal[
    "passes",
    "refused",  # somebody refused the connection: nobody listens, or a firewall that answers
    "silent",  # nobody answered: a firewall that drops, or a machine that is down
    "unreachable",  # no route leads there
    "unanswered",  # the connection stands, and nothing came over it
    "stranger",  # somebody else listens there, who does not know the run's token
    "too_large",  # a small message passes, a large one does not
    "broken",  # the connection ended in the middle
]
"""What came of a path, in one direction."""


@dataclass(frozen=True)
class PathEnd:
    """Where others try the path to a machine: the interface of its workers. `name`: the agent's, or
    `CONTROLLER`. `mtu`: bytes in a packet, None where it is not known. `ports`: those on which
    workers there listen, first and last; `are_chosen`: by the job's `ports`, not by the system."""

    name: str
    machine: str
    host: str
    port: int
    interface: str | None
    mtu: int | None
    ports: tuple[int, int]
    are_chosen: bool = False


@dataclass(frozen=True)
class PathResult:
    """What came of the path to `target`, at this port. `text`: the system's words of a failure."""

    target: str
    port: int
    finding: Finding
    text: str = ""


@dataclass(frozen=True)
class Hearing:
    """What an agent hears of the others' short messages, which machines send to each other about
    five times a second.

    `heard`: agents, or the controller, that it hears; `lost`: those that it has heard and does not
    hear any more, each with the seconds since; `told`: of those that it hears, whom they do not
    hear, as they say.
    """

    heard: tuple[str, ...] = ()
    lost: dict[str, float] = field(default_factory=dict)
    told: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class PathsOpen:
    """From an agent, as soon as it has joined: it can be tried at this end."""

    end: PathEnd
    kind: Literal["paths_open"] = "paths_open"


@dataclass(frozen=True)
class TryPaths:
    """To an agent: try the paths to these ends. `number`: of this round of tries."""

    number: int
    ends: tuple[PathEnd, ...]
    kind: Literal["try_paths"] = "try_paths"


@dataclass(frozen=True)
class PathsTried:
    """An agent's answer, with a result for each."""

    number: int
    results: tuple[PathResult, ...]
    kind: Literal["paths_tried"] = "paths_tried"
