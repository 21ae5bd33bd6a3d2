"""Calls for agents that stand by: an answer comes, whatever the backend says."""

from __future__ import annotations

from dataclasses import dataclass, field

from dougong.errors import LaunchError
from dougong.launcher.controller.inbound.items import ReserveBegun, ReserveFailed, ReserveSeen
from dougong.launcher.controller.inbound.reserve_calls import begin_reserve, see_reserve
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec

NODE = Node("id", "node1", "10.0.0.2")
SPARE = AgentSpec("east-spare-1", "east", "both", "cpu", 1, 1, 0, room=1)


@dataclass
class Played:
    """A backend whose head answers or does not."""

    answers: bool = True
    ended_agents: list[str] = field(default_factory=list)

    def end(self, names: list[str]) -> None:
        self.ended_agents += names

    def nodes(self, kinds: list[str]) -> list[Node]:
        if not self.answers:
            raise LaunchError("the head is silent\nand more")
        return [NODE]

    def how_ended(self, name: str) -> str:
        return ""

    def ended(self) -> dict[str, str]:
        return {"east-spare-1": "no such program"}


def test_what_is_gone_is_given_back_before_nodes_are_listed() -> None:
    backend = Played()
    seen = see_reserve(backend, ["east"], [])  # type: ignore[arg-type]
    assert seen == ReserveSeen((NODE,), {"east-spare-1": "no such program"}, ("east",))
    assert backend.ended_agents == ["east"]


def test_a_backend_that_cannot_help_says_so_in_one_line() -> None:
    assert see_reserve(Played(answers=False), [], []) == ReserveFailed("the head is silent")  # type: ignore[arg-type]

    def start() -> None:
        raise LaunchError("no room\nand more")

    assert begin_reserve([SPARE], start) == ReserveBegun(("east-spare-1",), "no room")
    assert begin_reserve([SPARE], lambda: None) == ReserveBegun(("east-spare-1",))
