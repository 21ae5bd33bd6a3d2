"""Agents and clients over real sockets: what they say becomes items, what they are sent arrives."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from dataclasses import replace

import pytest
from dougong.control.channel import Channel, connect
from dougong.control.handshake import AgentFacts, FolderTrouble
from dougong.control.messages import AgentReady, EndAgent, Heartbeat, KillWorkers, Message, Ping, StopRun
from dougong.deadlines import Deadlines
from dougong.launcher.controller.inbound.connections import Connections, KnownElsewhere
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import (
    AgentBeat,
    AgentJoined,
    AgentLeft,
    AgentMessage,
    ClientRequest,
    Item,
    PeerRefused,
)
from tests.launcher.toyrun import wait_for

EAST = AgentFacts("east", "east", "here", 1, "cpu", None, {}, {})
LIMITS = Deadlines(client_request_s=0.2, ping_every_s=0.05)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def connections(inbox: Inbox) -> Iterator[Connections]:
    made = Connections(inbox, "127.0.0.1", "secret", LIMITS)
    yield made
    made.close()


def take(inbox: Inbox) -> Item:
    item = inbox.get(20)
    assert item is not None
    return item


def join(connections: Connections, inbox: Inbox) -> Channel:
    """An agent's end of an adopted connection."""
    theirs = connect(connections.address, "secret", EAST, LIMITS)
    joined = take(inbox)
    assert isinstance(joined, AgentJoined) and joined.facts == EAST
    connections.adopt("east", joined.channel)
    return theirs


def next_but_pings(channel: Channel) -> Message:
    while True:
        message = channel.receive(20)
        if message != Ping():
            return message


def test_an_agent_s_run_directory_is_looked_at_before_it_joins(inbox: Inbox) -> None:
    """And how its clock goes."""
    trouble = FolderTrouble("/run", "unanswered")
    made = Connections(inbox, "127.0.0.1", "secret", LIMITS, known=KnownElsewhere(lambda facts: trouble))
    connect(made.address, "secret", EAST, LIMITS)
    joined = take(inbox)
    assert isinstance(joined, AgentJoined) and joined.facts == replace(EAST, trouble=trouble)
    assert abs(joined.clock_ahead_s) < 60
    made.close()


@pytest.mark.parametrize("has_unread", [False, True])
def test_how_an_agents_process_ended_is_told_with_its_connection(inbox: Inbox, has_unread: bool) -> None:
    known = KnownElsewhere(how_ended=lambda agent: f"the process of {agent} was ended by SIGKILL")
    made = Connections(inbox, "127.0.0.1", "secret", LIMITS, known=known)
    agent = join(made, inbox)
    if has_unread:  # as the system tells it then, its connection has broken
        made.send("east", KillWorkers(1))
        wait_for(lambda: select.select([agent], [], [], 0)[0], "it is there")
    agent.close()
    left = take(inbox)
    assert isinstance(left, AgentLeft) and left.reason.startswith("its connection ")
    assert left.reason.endswith(": the process of east was ended by SIGKILL")
    made.close()


def test_an_agent_speaks_and_is_spoken_to(connections: Connections, inbox: Inbox) -> None:
    agent = join(connections, inbox)
    agent.send(AgentReady(7))
    said = take(inbox)
    assert isinstance(said, AgentMessage) and (said.agent, said.message) == ("east", AgentReady(7))
    connections.send("east", KillWorkers(1))
    connections.send("west", KillWorkers(1))  # nobody of that name: no error
    assert next_but_pings(agent) == KillWorkers(1)
    assert agent.receive(20) == Ping()
    connections.close()
    assert next_but_pings(agent) == EndAgent()


def test_heartbeats_wait_beside_the_queue_and_the_newest_counts(connections: Connections, inbox: Inbox) -> None:
    agent = join(connections, inbox)
    for number in range(1, 8):
        agent.send(Heartbeat(1, number, {}))
    agent.send(AgentReady(7))
    beat, said = take(inbox), take(inbox)
    assert isinstance(beat, AgentBeat) and isinstance(said, AgentMessage) and said.message == AgentReady(7)
    read = beat.read()
    assert read is not None and read.message == Heartbeat(1, 7, {})
    agent.send(Heartbeat(1, 8, {}))
    (later,) = wait_for(inbox.take_beats, "it has come")
    assert later.heard_at >= beat.heard_at and inbox.get(0) is None


def test_an_agent_that_goes_is_an_item(connections: Connections, inbox: Inbox) -> None:
    join(connections, inbox).close()
    left = take(inbox)
    assert isinstance(left, AgentLeft) and (left.agent, left.reason) == ("east", "its connection ended")


def test_a_dropped_agent_sees_its_connection_end(connections: Connections, inbox: Inbox) -> None:
    agent = join(connections, inbox)
    connections.drop("east")
    with pytest.raises((EOFError, OSError)):
        next_but_pings(agent)
    connections.drop("east")
    connections.send_all(KillWorkers(1))


def test_a_malformed_message_is_reported_and_the_next_one_is_heard(connections: Connections, inbox: Inbox) -> None:
    agent = join(connections, inbox)
    os.write(agent.fileno(), b'{"kind": "sing"}\n')
    agent.send(AgentReady(7))
    refused, said = take(inbox), take(inbox)
    assert isinstance(refused, PeerRefused) and "unknown message kind" in refused.text
    assert isinstance(said, AgentMessage) and said.message == AgentReady(7)


def test_a_client_asks_once(connections: Connections, inbox: Inbox) -> None:
    client = connect(connections.address, "secret", None, LIMITS)
    client.send(StopRun(now=True))
    asked = take(inbox)
    assert isinstance(asked, ClientRequest) and asked.message == StopRun(now=True)


def test_a_client_that_says_nothing_is_turned_away(connections: Connections, inbox: Inbox) -> None:
    client = connect(connections.address, "secret", None, LIMITS)
    refused = take(inbox)
    assert isinstance(refused, PeerRefused) and "a client's request was not understood" in refused.text
    assert wait_for(lambda: ends(client), "the connection ends")


def ends(channel: Channel) -> bool:
    try:
        channel.receive(1)
    except (EOFError, OSError):
        return True
    return False
