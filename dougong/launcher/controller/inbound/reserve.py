"""What is known of the search for agents that stand by, and of machines that are better left alone
for a while."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dougong.deadlines import DEADLINES
from dougong.planner.nodes import Node

_MOST_DOUBLINGS = 6


@dataclass(frozen=True)
class Lapse:
    """An agent was lost on a machine, which is left alone until then (monotonic seconds), for
    `pause_s`."""

    until: float
    pause_s: float


@dataclass
class ReserveFacts:
    """`nodes`: those that there were when last looked at (None: not since the last order), at
    `looked_at` (monotonic seconds); `is_busy`: the backend has yet to answer. `gone`: names of
    agents whose places are yet to be given back. `lapses`: by machine. `told`: what was said last
    of agents for which there is no room; `trouble`: why the backend could not help."""

    nodes: tuple[Node, ...] | None = None
    looked_at: float = -math.inf
    is_busy: bool = False
    gone: set[str] = field(default_factory=set)
    lapses: dict[str, Lapse] = field(default_factory=dict)
    told: str = ""
    trouble: str = ""

    def note_asked(self, now: float) -> None:
        """The backend is asked for the nodes that there are."""
        self.nodes, self.looked_at, self.is_busy = None, now, True

    def note_loss(self, machine: str, now: float) -> None:
        """An agent was lost there. The machine is left alone for a while, and each time that it
        fails again before it is forgotten for twice as long: what has just come back may go at
        once."""
        pause_s = DEADLINES.node_retry_s
        before = self.lapses.get(machine)
        if before is not None and now < before.until:
            pause_s = before.pause_s  # its other agents are lost with it
        elif before is not None and now - before.until < DEADLINES.budget_s:
            pause_s = min(2 * before.pause_s, pause_s * 2**_MOST_DOUBLINGS)
        self.lapses[machine] = Lapse(now + pause_s, pause_s)

    def is_left_alone(self, machine: str, now: float) -> bool:
        """Whether nothing is to be begun there yet."""
        lapse = self.lapses.get(machine)
        return lapse is not None and now < lapse.until
