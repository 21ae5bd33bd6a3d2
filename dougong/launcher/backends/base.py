"""Where agents come from: what every backend does. `local.Local`: subprocesses of this machine.
`ray_cluster.RayBackend`: actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dougong.launcher.agent.settings import AgentSettings
from dougong.planner.placement import AgentSpec, Node
from dougong.records.events import Phase

SettingsOf = Callable[[AgentSpec], AgentSettings]
"""What an agent is given at its start."""


class Backend(Protocol):
    """Starts agents and knows why one is gone. All its methods are called from one long-lived
    thread, but `close`.

    `phase`: what its part of a start is called. `shared_devices`: whether agents on one node see
    each other's devices.
    """

    phase: Phase
    shared_devices: bool

    def open(self) -> str:
        """Make nodes available; the address of this process as the agents' nodes reach it."""

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        """The nodes there are, with their devices of these accelerators."""

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf) -> None:
        """Start agents, all of them or none. LaunchError when they find no place."""

    def restart(self, spec: AgentSpec, settings_of: SettingsOf) -> None:
        """Start one agent again whose first life has ended."""

    def why_ended(self, name: str) -> str | None:
        """Why an agent ended, in words; None when it has not, or nothing is known."""

    def close(self) -> None:
        """End every agent that is left."""
