"""Messages between attention and experts workers, sent and received beside the computation.

There is one thread for each kind of message (`schedules.operation.MessageKind`), so dispatch and
combine go on at the same time, and while the worker computes. What the island's native library
carries is issued by one thread of its own, in one order (`native`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.parallel.comm.message import (
    PartRoom,
)
from dougong.parallel.comm.world import World
from dougong.parallel.exchange.channel import EmulatedLink, MessageChannel
from dougong.parallel.exchange.expected import Expected, Outgoing, Received
from dougong.parallel.schedules.operation import CallKey, MessageKind


class Exchange:
    """One worker's end of all messages between attention and experts.

    In every step: `begin_step`, then `expect`, then `send`, `make_room` and `receive`, and
    `finish`. Its threads end with the world. `watch` sees what is sent, and says what is sent in
    its place: drills set it.
    """

    def __init__(
        self, world: World, link: EmulatedLink | None = None, names: Sequence[str] = ()
    ) -> None:
        """`names`: what the model calls its sites, for errors."""
        self.watch: Callable[[MessageKind, CallKey, Outgoing], Outgoing] | None = None
        self._world = world
        self._channels = {kind: MessageChannel(world, kind, link, names) for kind in MessageKind}
        world.at_leaving(self.close)

    @property
    def step(self) -> int:
        """The step that messages belong to."""
        return self._world.step

    def begin_step(self, step: int) -> None:
        """What is exchanged from now on belongs to this step."""
        self._world.begin_step(step)

    def expect(self, messages: Sequence[Expected]) -> None:
        """All messages of this step, in the one order that all workers share: each needs only
        earlier ones (`schedules.message_order`)."""
        for expected in messages:
            self._channels[expected.kind].expect(expected)

    def send(self, kind: MessageKind, key: CallKey, outgoing: Outgoing) -> None:
        """Hand over what goes to all receivers; returns at once. It must stay as it is until
        `finish` has returned."""
        if self.watch is not None:
            outgoing = self.watch(kind, key, outgoing)
        self._channels[kind].send(key, outgoing)

    def make_room(self, kind: MessageKind, key: CallKey, rooms: Sequence[PartRoom]) -> None:
        """Say what comes of a kind that no table goes ahead of; as soon as it is known."""
        self._channels[kind].make_room(key, rooms)

    def receive(self, kind: MessageKind, key: CallKey) -> Received:
        """All messages of one kind, site and micro-batch, when the last has come.

        Raises PeerError when a peer is lost or does not come, and LaunchError for a table that is
        not the expected one.
        """
        return self._channels[kind].receive(key)

    def finish(self) -> None:
        """Wait until everything has been sent: the end of a step."""
        for channel in self._channels.values():
            channel.finish()

    def close(self) -> None:
        """End the threads. What has not been sent is not sent any more."""
        for channel in self._channels.values():
            channel.close()
