"""Where agents come from: what every backend does. `local.Local`: subprocesses of this machine.
`ray_cluster.RayBackend`: actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dougong.launcher.agent.settings import AgentSettings
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.events import Phase

SettingsOf = Callable[[AgentSpec], AgentSettings]
"""What an agent is given at its start."""

Tell = Callable[[str], None]
"""Says at once what is awaited. May be called from any thread."""


RayPart = Literal["head", "raylet", "driver"]


@dataclass(frozen=True)
class RayNews:
    """A part of Ray is gone (`is_lost`), or there again: the cluster's head, what it has on a node
    (the raylet) for an `agent`, or our own process that speaks with them (the driver). Agents that
    live need none of them. `is_warning`: nothing is gone, and `text` is what a person should
    know."""

    part: RayPart
    is_lost: bool
    text: str
    agent: str = ""
    is_warning: bool = False


TellNews = Callable[[RayNews], None]
"""Hears of Ray when that is news. May be called from any thread."""


class Backend(Protocol):
    """Starts agents and knows which have ended. All its methods are called from one long-lived
    thread, but `close`.

    `phase`: what its part of a start is called. `shared_devices`: whether agents on one node see
    each other's devices. `may_grow`: whether nodes may join, and others give back what they hold.
    """

    phase: Phase
    shared_devices: bool

    @property
    def may_grow(self) -> bool: ...

    def open(self) -> str:
        """Make nodes available; the address of this process as the agents' nodes reach it."""

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        """The nodes there are, with their devices of these accelerators, and what of each is free.
        One that does not answer is marked as gone, so that a pin to it can be explained."""

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        """Start agents, all of them or none, each on the node that its spec names. A name that was
        started before begins a new life: its old one is ended first.

        NoRoomError when what was free has been taken meanwhile; `tell` says what is awaited.
        """

    def end(self, names: Sequence[str]) -> None:
        """These agents are lost or wanted no more: end what is left of them, and give back what
        they hold. A name that is not known is no error."""

    def ended(self) -> dict[str, str]:
        """The agents that have ended by now, in their present life, and why: the last line that
        each has said. Never waits."""

    def how_ended(self, name: str) -> str:
        """How the process of this agent, whose connection has just ended, has ended, where that is
        known here at once; else nothing. May be called from any thread."""

    def close(self) -> None:
        """End every agent that is left, and a `start` that still waits for room."""


class LastingBackend(Backend, Protocol):
    """One whose agents may go over from one controller to the next."""

    def hand_over(self) -> None:
        """All that it has is an earlier controller's from now on: the next `start` takes over the
        agents that wait and are wanted as they are, and ends the others."""
