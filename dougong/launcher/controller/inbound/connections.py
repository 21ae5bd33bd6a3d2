"""The controller's connections: agents and clients come in over one server, and what they say
becomes an item of the inbox. Reading happens in a thread for each agent, sending in the
controller's."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dougong.addresses import Ports
from dougong.control.channel import Channel
from dougong.control.handshake import AgentFacts, FolderTrouble, Hello
from dougong.control.messages import EndAgent, Message, Ping, ProtocolError
from dougong.control.network.neighbours import Neighbours, takes_connections
from dougong.control.network.path_probe import PathListener
from dougong.control.path_messages import CONTROLLER, Hearing, PathEnd
from dougong.control.server import Refusals, Server
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.agent.paths import describe_end
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import (
    AgentBeat,
    AgentJoined,
    AgentLeft,
    AgentMessage,
    ClientRequest,
    Heard,
    MachineTried,
    PeerRefused,
)


@dataclass(frozen=True)
class KnownElsewhere:
    """What is asked about an agent in the thread of its connection. `trouble_of`: what is wrong
    with the run directory on its machine, which may take its time; `how_ended`: as in `Backend`."""

    trouble_of: Callable[[AgentFacts], FolderTrouble | None] = lambda facts: facts.trouble
    how_ended: Callable[[str], str] = lambda agent: ""


class Connections:
    """Listens on `host`. An agent that has proved itself becomes an `AgentJoined`; it is sent
    messages once it is adopted."""

    def __init__(
        self,
        inbox: Inbox,
        host: str,
        token: str,
        deadlines: Deadlines,
        ports: Ports | None = None,
        known: KnownElsewhere | None = None,
    ) -> None:
        self._inbox = inbox
        self._known = known or KnownElsewhere()
        self._deadlines = deadlines
        self._channels: dict[str, Channel] = {}
        self._closed = threading.Event()
        self._ports = ports
        self._refusals = Refusals()
        self._paths = PathListener(host, token, ports, deadlines)
        self._neighbours = Neighbours(CONTROLLER, self._paths.address, token)
        self._server = Server(host, token, self._on_peer, self._on_refused, deadlines, ports)
        threading.Thread(target=self._ping, name="dougong-ping", daemon=True).start()
        threading.Thread(target=self._hear, name="dougong-hear", daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self._server.address

    @property
    def path_end(self) -> PathEnd:
        """Where the paths to this machine are tried."""
        return describe_end(CONTROLLER, self._paths.address, self._ports)

    def number(self, fence: int) -> None:
        """The controller's number, which agents are told. To be called before anybody knows the
        address."""
        self._server.fence = fence

    def adopt(self, agent: str, channel: Channel) -> None:
        """From now on the agent is sent messages over this channel."""
        self._channels[agent] = channel

    def drop(self, agent: str) -> None:
        """Close an agent's connection; it ends its workers then, if it still lives."""
        channel = self._channels.pop(agent, None)
        if channel is not None:
            channel.close()

    def send(self, agent: str, message: Message) -> None:
        """Send to one agent, if it is connected. A broken connection is no error here: it becomes
        an `AgentLeft`."""
        channel = self._channels.get(agent)
        if channel is None:
            return
        try:
            channel.send(message)
        except OSError as error:
            # Sending happens in the middle of an action, where nothing can be decided about a loss.
            # The reader may hear of it too; the second item finds the agent lost already.
            self._inbox.put(AgentLeft(agent, channel, f"cannot be sent messages: {error}"))

    def send_all(self, message: Message) -> None:
        """Send to every connected agent."""
        for agent in list(self._channels):  # a copy: the pinging thread reads it too
            self.send(agent, message)

    def close(self) -> None:
        """End the agents and stop listening. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.send_all(EndAgent())
        self._server.close()
        self._paths.close()
        self._neighbours.close()

    def know(self, ends: Iterable[PathEnd]) -> None:
        """From now on the controller and these machines hear each other."""
        self._neighbours.know(ends)

    def try_machine(self, end: PathEnd) -> None:
        """Try in a thread of its own whether a machine takes connections; a MachineTried says what
        came of it."""

        def run() -> None:
            self._inbox.put(MachineTried(end.name, takes_connections(end)))

        threading.Thread(target=run, name="dougong-try", daemon=True).start()

    def _hear(self) -> None:
        before = Hearing()
        while not self._closed.wait(self._deadlines.neighbour_every_s):
            hearing = self._neighbours.hearing
            if hearing != before:
                self._inbox.put(Heard(hearing))
            before = hearing

    def _ping(self) -> None:
        while not self._closed.wait(self._deadlines.ping_every_s):
            self.send_all(Ping())

    def _on_refused(self, text: str) -> None:
        self._inbox.put(PeerRefused(text))

    def _not_understood(self, who: str, error: Exception) -> None:
        told = self._refusals.words(who, str(error))
        if told:
            self._inbox.put(PeerRefused(told))

    def _on_peer(self, hello: Hello, channel: Channel) -> None:
        if hello.agent is not None:
            clock_ahead_s = hello.wall_s - time.time()
            trouble = self._known.trouble_of(hello.agent)
            facts = dataclasses.replace(hello.agent, trouble=trouble)
            self._listen(AgentJoined(facts, channel, clock_ahead_s))
            return
        limit = "client_request_s"
        try:
            request = channel.receive(self._deadlines.client_request_s, limit)
        except (OSError, EOFError, LaunchError) as error:
            channel.close()
            self._not_understood("a client's request was not understood", error)
        else:
            self._inbox.put(ClientRequest(channel, request))

    def _listen(self, joined: AgentJoined) -> None:
        agent, channel = joined.facts.agent, joined.channel
        self._inbox.put(joined)
        try:
            while True:
                self._receive(agent, channel)
        except EOFError:
            self._note_end(agent, channel, "its connection ended")
        except (OSError, ValueError) as error:  # ValueError: closed by our own side meanwhile
            self._note_end(agent, channel, f"its connection broke ({error})")

    def _note_end(self, agent: str, channel: Channel, words: str) -> None:
        how = self._known.how_ended(agent)
        self._inbox.put_said(AgentLeft(agent, channel, f"{words}: {how}" if how else words))

    def _receive(self, agent: str, channel: Channel) -> None:
        try:
            said = channel.receive_or_beat()
        except ProtocolError as error:  # one message is lost, the connection is not
            self._not_understood(f"agent {agent}", error)
            return
        if isinstance(said, bytes):
            at, unclear = channel.heard_at, self._not_understood
            self._inbox.put_beat(AgentBeat(agent, channel, said, at, unclear))
        else:
            self._inbox.put_said(AgentMessage(agent, channel, said))
