"""Messages between attention and experts workers, sent and received beside the computation.

There is one thread for each kind of message (`schedules.operation.MessageKind`), so dispatch and
combine go on at the same time, and while the worker computes. What the island's native library
carries is issued by one thread of its own, in one order (`native`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.ops.bit_sum import sums_of_shares
from dougong.parallel.comm.message import PartRoom, SplitTensor
from dougong.parallel.comm.peers import Sides
from dougong.parallel.comm.world import World
from dougong.parallel.exchange.channel import EmulatedLink, MessageChannel
from dougong.parallel.exchange.expected import Expected, Outgoing, Received, place_in_words
from dougong.parallel.schedules.operation import CallKey, MessageKind

Watch = Callable[[MessageKind, CallKey, Outgoing], Outgoing]
"""watch(kind, key, what is sent): what is sent in its place."""


class Exchange:
    """One worker's end of all messages between attention and experts.

    In every step: `begin_step`, then `expect`, then `send`, `make_room` and `receive`, and
    `finish`. Its threads end with the world. `watch` sees what is sent, and says what is sent in
    its place; `wire` does so when its sums have been taken: drills set them.
    """

    def __init__(
        self, world: World, link: EmulatedLink | None = None, names: Sequence[str] = ()
    ) -> None:
        """`names`: what the model calls its sites, for errors."""
        self.watch: Watch | None = None
        self.wire: Watch | None = None
        self._world, self._names = world, names
        self._sides: dict[tuple[MessageKind, CallKey], Sides] = {}
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
            self._sides[expected.kind, expected.key] = expected.sides
            self._channels[expected.kind].expect(expected)

    def send(self, kind: MessageKind, key: CallKey, outgoing: Outgoing) -> None:
        """Hand over what goes to all receivers; returns at once. It must stay as it is until
        `finish` has returned."""
        if self.watch is not None:
            outgoing = self.watch(kind, key, outgoing)
        if self._world.tally.is_on:
            receivers = self._sides[kind, key].receivers
            self._note(kind, key, receivers, outgoing.parts, is_sent=True)
        if self.wire is not None:
            outgoing = self.wire(kind, key, outgoing)
        self._channels[kind].send(key, outgoing)

    def make_room(self, kind: MessageKind, key: CallKey, rooms: Sequence[PartRoom]) -> None:
        """Say what comes of a kind that no table goes ahead of; as soon as it is known."""
        self._channels[kind].make_room(key, rooms)

    def receive(self, kind: MessageKind, key: CallKey) -> Received:
        """All messages of one kind, site and micro-batch, when the last has come.

        Raises PeerError when a peer is lost or does not come, and LaunchError for a table that is
        not the expected one.
        """
        received = self._channels[kind].receive(key)
        if self._world.tally.is_on:
            pairs = zip(received.parts, received.sizes, strict=True)
            parts = [SplitTensor(values, sizes) for values, sizes in pairs]
            self._note(kind, key, self._sides[kind, key].senders, parts, is_sent=False)
        return received

    def _note(
        self,
        kind: MessageKind,
        key: CallKey,
        peers: Sequence[int],
        parts: Sequence[SplitTensor],
        is_sent: bool,
    ) -> None:
        """Take the sums of what leaves, or has come."""
        what = f"{kind.value} of {place_in_words(key, self._names)}"
        for part in parts:
            sums = sums_of_shares(part.values, part.sizes)
            self._world.tally.note(what, peers, sums, is_sent=is_sent)

    def finish(self) -> None:
        """Wait until everything has been sent: the end of a step."""
        for channel in self._channels.values():
            channel.finish()

    def close(self) -> None:
        """End the threads. What has not been sent is not sent any more."""
        for channel in self._channels.values():
            channel.close()
