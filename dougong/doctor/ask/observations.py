"""What is known of the nodes so far, and who of them is still asked. No decisions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dougong.control.path_messages import PathEnd, PathResult
from dougong.deadlines import Deadlines
from dougong.doctor.ask.demand import Demand, DoctorRequest
from dougong.doctor.ask.nodes import ExaminedNodes
from dougong.doctor.facts import LinkAnswer, NodeFacts, SpeedAnswer, StoreAnswer
from dougong.planner.agreement import Software
from dougong.planner.nodes import Node


@dataclass(frozen=True)
class Viewpoint:
    """Where nodes are examined from. `towards`: the address of this machine as they reach it, None
    where they are it; `token`: by which they know each other."""

    towards: str | None
    token: str
    here: Software


@dataclass(frozen=True)
class ClockFacts:
    """A node's clock. `ahead_s`: of this machine's; `doubt_s`: half of the time that the answer
    took."""

    ahead_s: float
    doubt_s: float


@dataclass
class Observations:
    """What was found, by node's id. `silent`: nodes that are examined no further, and why;
    `unmeasured`: what a node did not answer beside that, as (node, what, why)."""

    request: DoctorRequest
    place: Viewpoint
    nodes: dict[str, Node] = field(default_factory=dict)
    demand: Demand = field(default_factory=lambda: Demand({}))
    facts: dict[str, NodeFacts] = field(default_factory=dict)
    clocks: dict[str, ClockFacts] = field(default_factory=dict)
    ends: dict[str, PathEnd] = field(default_factory=dict)
    paths: dict[str, tuple[PathResult, ...]] = field(default_factory=dict)
    speeds: dict[str, SpeedAnswer] = field(default_factory=dict)
    stores: dict[str, StoreAnswer] = field(default_factory=dict)
    links: dict[tuple[str, str], LinkAnswer] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    unmeasured: list[tuple[str, str, str]] = field(default_factory=list)
    folder_problem: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether one node answers, so that nothing is compared."""
        return len(self.nodes) - len(self.silent) < 2

    def title(self, node: str) -> str:
        """The node for people."""
        return self.nodes[node].title


@dataclass(frozen=True)
class Inquiry:
    """Who is asked, and what has been found so far."""

    nodes: ExaminedNodes
    found: Observations
    deadlines: Deadlines

    @property
    def living(self) -> list[str]:
        """The nodes that have answered so far."""
        return [name for name in self.found.nodes if name not in self.found.silent]

    def in_turn(self) -> Iterator[list[str]]:
        """The living nodes, in rounds with one node of each machine."""
        by_machine: dict[str, list[str]] = {}
        for name in self.living:
            by_machine.setdefault(self.found.facts[name].machine or name, []).append(name)
        for alike in itertools.zip_longest(*by_machine.values()):
            yield [name for name in alike if name is not None]

    def note_silence(self, what: str, silent: Mapping[str, str]) -> None:
        """That nodes have not answered a question beside the first ones."""
        self.found.unmeasured += [(name, what, why) for name, why in silent.items()]
