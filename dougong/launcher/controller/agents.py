"""The controller's agents and whatever else reaches it: every message, loss and signal becomes an
item in one inbox."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dougong.control.channel import Channel, Server
from dougong.control.handshake import AgentFacts, Hello
from dougong.control.messages import EndAgent, Message, Ping, ProtocolError
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.controller.inbox import (
    AgentJoined,
    AgentLeft,
    AgentMessage,
    ClientRequest,
    Inbox,
    PeerRefused,
)
from dougong.planner.placement import AgentSpec

PING_S = 2.0
REQUEST_S = 10.0


@dataclass
class AgentHandle:
    """One agent as the controller knows it. `lost`: why it is gone."""

    spec: AgentSpec
    hello: AgentFacts | None = None
    channel: Channel | None = None
    ready: bool = False
    lost: str | None = None

    @property
    def address(self) -> str:
        """The agent's network address, as this process sees it."""
        return self.channel.peer_address if self.channel is not None else ""


class Agents:
    """All agents of a run. Reading happens in a thread per agent, everything else in the
    controller's."""

    def __init__(self, inbox: Inbox, token: str, host: str) -> None:
        self._inbox = inbox
        self._token = token
        self.members: dict[str, AgentHandle] = {}
        self.server = Server(
            host, token, self._on_peer, lambda text: inbox.put(PeerRefused(text)), DEADLINES
        )
        self._closed = threading.Event()
        threading.Thread(target=self._ping, name="dougong-ping", daemon=True).start()

    def address(self) -> dict[str, Any]:
        """For controller.json: how a client reaches and convinces this controller."""
        host, port = self.server.address
        return {
            "host": host,
            "port": port,
            "pid": os.getpid(),
            "token": self._token,
            "machine": socket.gethostname(),
        }

    def expect(self, specs: Sequence[AgentSpec]) -> None:
        """From now on these agents may join; one that is named again begins a new life."""
        for spec in specs:
            self.members[spec.name] = AgentHandle(spec)

    def welcome(self, item: AgentJoined) -> bool:
        """Take an agent in; False (and the line is closed) for one that is not expected."""
        member = self.members.get(item.agent)
        if member is None or member.channel is not None:
            item.channel.close()
            return False
        member.hello, member.channel = item.hello, item.channel
        return True

    def is_current(self, agent: str, channel: Channel) -> bool:
        """Whether a message over this channel comes from the agent's present life."""
        member = self.members.get(agent)
        return member is not None and member.channel is channel and member.lost is None

    def hellos(self) -> Mapping[str, dict[str, Any]]:
        return {
            name: dataclasses.asdict(m.hello)
            for name, m in self.members.items()
            if m.hello is not None
        }

    def tell(self, member: AgentHandle, message: Message) -> None:
        """Say something to one agent. A line that is broken is heard of by its reader: no error
        here."""
        if member.channel is None or member.lost is not None:
            return
        try:
            member.channel.send(message)
        except OSError as error:
            self._inbox.put(
                AgentLeft(member.spec.name, member.channel, f"cannot be told anything: {error}")
            )

    def tell_all(self, message: Message) -> None:
        for member in self.members.values():
            self.tell(member, message)

    def lose(self, member: AgentHandle, reason: str) -> None:
        """Count an agent as gone and close its line, so that it ends its workers if it still
        lives."""
        member.lost = reason
        if member.channel is not None:
            member.channel.close()

    def close(self) -> None:
        self._closed.set()
        self.tell_all(EndAgent())
        self.server.close()

    def _ping(self) -> None:
        while not self._closed.wait(PING_S):
            for member in list(self.members.values()):
                self.tell(member, Ping())

    def _on_peer(self, hello: Hello, channel: Channel) -> None:
        if hello.agent is not None:
            self._listen(hello.agent, channel)
            return
        try:
            self._inbox.put(ClientRequest(channel, channel.receive(REQUEST_S)))
        except (OSError, EOFError, LaunchError) as error:
            channel.close()
            self._inbox.put(PeerRefused(f"a client said nothing that makes sense: {error}"))

    def _listen(self, facts: AgentFacts, channel: Channel) -> None:
        agent = facts.agent
        self._inbox.put(AgentJoined(agent, facts, channel))
        try:
            while True:
                try:
                    self._inbox.put(AgentMessage(agent, channel, channel.receive(None)))
                except ProtocolError as error:
                    self._inbox.put(PeerRefused(str(error)))
        except EOFError:
            self._inbox.put(AgentLeft(agent, channel, "its connection ended"))
        except (OSError, ValueError) as error:  # ValueError: closed under our feet
            self._inbox.put(AgentLeft(agent, channel, f"its connection broke: {error}"))
