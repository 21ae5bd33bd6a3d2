"""Who is expected, who has joined, who is lost."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from dougong.control.channel import Channel
from dougong.control.handshake import AgentFacts
from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.culprit import Culprit
from dougong.fault.observation import AgentLost
from dougong.launcher.controller.inbound.agents import AgentTable
from dougong.planner.placement import AgentSpec

EAST = AgentSpec("east", "east", "both", "cpu", 1, 0, 2)
WEST = AgentSpec("west", "west", "both", "cpu", 1, 0, 1)


def facts(agent: str) -> AgentFacts:
    return AgentFacts(agent, agent, f"node-of-{agent}", 1, "cpu", None, {}, {})


@pytest.fixture
def channels() -> Iterator[list[Channel]]:
    made = [Channel(end, "a peer", DEADLINES) for end in socket.socketpair()]
    yield made
    for channel in made:
        channel.close()


@pytest.fixture
def agents() -> AgentTable:
    table = AgentTable()
    table.expect([EAST, WEST], [EAST, WEST])
    return table


def test_an_agent_joins_once(agents: AgentTable, channels: list[Channel]) -> None:
    assert agents.join(facts("east"), channels[0])
    assert not agents.join(facts("east"), channels[1])
    assert not agents.join(facts("north"), channels[1])
    assert agents.is_current("east", channels[0]) and not agents.is_current("east", channels[1])
    assert list(agents.facts) == ["east"]


def gone(agent: str, reason: str) -> AgentLost:
    return AgentLost(Culprit("agent", agent), reason, (f"{agent}/0",))


def test_a_lost_agent_is_named_with_its_node_and_begins_another_life(
    agents: AgentTable, channels: list[Channel]
) -> None:
    agents.join(facts("east"), channels[0])
    agents.lose(agents["east"], gone("east", "no heartbeat"), "node-of-east")
    assert agents["east"].lost == "agent east on node-of-east: no heartbeat"
    agents.lose(agents["west"], gone("west", "gone"), "its node")
    assert agents["west"].failure == gone("west", "gone")
    assert [handle.spec.name for handle in agents.lost] == ["east", "west"]
    assert not agents.is_current("east", channels[0])
    agents.expect([EAST], [EAST, WEST])
    assert agents.join(facts("east"), channels[1])
    assert [handle.spec.name for handle in agents.lost] == ["west"]


def test_only_those_who_have_joined_fall_silent(agents: AgentTable, channels: list[Channel]) -> None:
    limits = Deadlines(agent_silence_s=10)
    agents.join(facts("east"), channels[0])
    channels[0].heard_at = 100.0
    assert agents.silent(110.0, limits) == ()
    assert [handle.spec.name for handle in agents.silent(111.0, limits)] == ["east"]
    agents.lose(agents["east"], gone("east", "no heartbeat"), "node-of-east")
    assert agents.silent(200.0, limits) == ()


def test_who_has_been_held_up_himself_counts_from_his_next_look(agents: AgentTable, channels: list[Channel]) -> None:
    limits = Deadlines(agent_silence_s=10)
    agents.join(facts("east"), channels[0])
    channels[0].heard_at = 100.0
    agents.note_look(100.1)
    agents.note_look(160.0)  # what was said meanwhile is not read yet
    assert agents.silent(160.0, limits) == ()
    assert agents.silent_s(agents["east"], 160.5) == 0.5


def test_rare_heartbeats_of_a_large_run_are_no_silence(channels: list[Channel]) -> None:
    """Somebody who is heard as often as agents of so large a run speak is never mute."""
    table, large = AgentTable(), dataclasses.replace(EAST, num_workers=20_000)
    table.expect([large], [large])
    table.join(facts("east"), channels[0])
    channels[0].heard_at = 100.0
    every_s = DEADLINES.of_workers(20_000).heartbeat_every_s
    table.note_look(100.0)
    assert table.silent_s(table["east"], 100.0) == 0.0
    (view,) = table.views(100.0 + every_s + 0.2, lambda handle: "a machine")
    assert every_s > DEADLINES.agent_mute_s and not view.is_silent
    assert table.views(100.0 + every_s + 0.4, lambda handle: "a machine")[0].is_silent


def test_named_means_those_alone(agents: AgentTable) -> None:
    assert [handle.spec.name for handle in agents.named(())] == []
    assert [handle.spec.name for handle in agents.named(("west",))] == ["west"]


def test_a_worker_belongs_to_one_agent(agents: AgentTable) -> None:
    handle = agents.of_worker("west/0")
    assert handle is not None and handle.spec.name == "west"
    assert agents.of_worker("north/0") is None


def test_agents_of_another_layout_are_forgotten(agents: AgentTable, channels: list[Channel]) -> None:
    agents.join(facts("east"), channels[0])
    new = replace(WEST, name="west-0", node="id-of-node2")
    agents.expect([new], [EAST, new])
    assert [handle.spec.name for handle in agents.all] == ["east", "west-0"]
    assert [handle.spec.name for handle in agents.living] == ["east"]
    assert not agents.join(facts("west"), channels[1])


def test_an_agent_that_comes_from_another_node_than_its_own_is_not_let_in(
    agents: AgentTable, channels: list[Channel]
) -> None:
    agents.expect([replace(EAST, node="id-of-node2")], [replace(EAST, node="id-of-node2"), WEST])
    assert not agents.join(replace(facts("east"), ray_node="id-of-node1"), channels[0])
    assert agents.join(replace(facts("east"), ray_node="id-of-node2"), channels[0])


def test_a_node_is_named_unless_all_is_on_the_machine_of_whoever_reads(
    agents: AgentTable, channels: list[Channel]
) -> None:
    assert agents.node_of("east/0", "head") == ""  # nobody knows it yet
    agents.join(facts("east"), channels[0])
    assert agents.node_of("east/0", "node-of-east") == agents.node_of("east/0", "") == ""
    assert agents.node_of("east/0", "head") == "node-of-east"
    agents.join(facts("west"), channels[1])
    assert agents.node_of("east/0", "node-of-east") == "node-of-east"
    assert agents.node_of("west/0", "") == "node-of-west"
    assert agents.on_nodes(["east/0", "east/1", "west/0"]) == " (on node-of-east, node-of-west)"
    assert agents.on_nodes(["north/0"]) == agents.on_nodes([]) == ""


def test_what_those_said_who_have_joined_is_kept_with_their_clocks(agents: AgentTable, channels: list[Channel]) -> None:
    assert agents.joined == []
    agents.join(facts("west"), channels[0], -7200.0)
    ((spec, said, ahead_s),) = [(one.spec, one.facts, one.clock_ahead_s) for one in agents.joined]
    assert (spec.name, said, ahead_s) == ("west", facts("west"), -7200.0)
