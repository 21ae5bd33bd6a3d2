"""Messages between attention and experts workers, sent and received beside the computation.

There is one thread for each kind of message (`schedules.operation.MessageKind`), so dispatch and
combine go on at the same time, and while the worker computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.errors import LaunchError
from dougong.parallel.comm.message import (
    HEAD_BYTES,
    HEAD_NUMBERS,
    LABEL,
    MOST_PARTS,
    TensorMessage,
    label_of,
    make_head,
    make_room,
)
from dougong.parallel.comm.route import UnderWay
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.schedules.operation import CallKey, MessageKind

Messages = Mapping[int, TensorMessage]
"""Messages of one kind, site and micro-batch, by the rank at the other end."""


def place_in_words(key: CallKey, names: Sequence[str]) -> str:
    """Where in the step a message belongs; `names` of the model's modules, by site."""
    site, microbatch = key
    name = f" ({names[site]})" if site < len(names) else ""
    return f"site {site}{name}, micro-batch {microbatch}"


@dataclass(frozen=True)
class EmulatedLink:
    """An emulated connection: what a worker's messages of one kind take beside the real sending."""

    bytes_per_s: float
    latency_s: float

    def seconds(self, num_bytes: int) -> float:
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class Expected:
    """The messages of one kind, site and micro-batch: whom this worker sends to and whom it
    receives from, itself left out."""

    key: CallKey
    targets: tuple[int, ...]
    sources: tuple[int, ...]


class Exchange:
    """One worker's end of all messages between attention and experts.

    In every step: `begin_step`, then `expect` for each kind, then `send` and `receive`, and
    `finish`. Its threads end with the world. `watch` sees what is sent, and says what is sent in
    its place: drills set it.
    """

    def __init__(
        self, world: World, link: EmulatedLink | None = None, names: Sequence[str] = ()
    ) -> None:
        """`names`: what the model calls its sites, for errors."""
        self.watch: Callable[[MessageKind, CallKey, Messages], Messages] | None = None
        self._world = world
        self._channels = {kind: _MessageChannel(world, kind, link, names) for kind in MessageKind}
        world.at_leaving(self.close)

    @property
    def step(self) -> int:
        """The step that messages belong to."""
        return self._world.step

    def begin_step(self, step: int) -> None:
        """What is exchanged from now on belongs to this step."""
        self._world.begin_step(step)

    def expect(self, kind: MessageKind, messages: Sequence[Expected]) -> None:
        """All messages of one kind in this step, in an order that is the same at both ends of every
        message."""
        self._channels[kind].expect(messages)

    def send(self, kind: MessageKind, key: CallKey, messages: Messages) -> None:
        """Hand over messages by rank; returns at once. One to oneself is there at once. Their parts
        must stay as they are until `finish` has returned."""
        if self.watch is not None:
            messages = self.watch(kind, key, messages)
        self._channels[kind].send(key, messages)

    def receive(self, kind: MessageKind, key: CallKey) -> dict[int, TensorMessage]:
        """All messages of one kind, site and micro-batch, by rank, when the last has come.

        Raises PeerError when a peer is lost or does not come, and LaunchError for a message that is
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


@dataclass(frozen=True)
class _Arrived:
    """What has come. `under_way`: what the native library still has to bring; the messages' parts
    hold nothing before that."""

    messages: dict[int, TensorMessage]
    under_way: UnderWay


@dataclass
class _Turn:
    """What is exchanged for one site and micro-batch, while it waits or is under way.

    `ready`: what leaves, set by `send`; `arrived`: what comes, set by the thread.
    """

    expected: Expected
    label: list[int]
    ready: Future[Messages] = field(default_factory=Future)
    arrived: Future[_Arrived] = field(default_factory=Future)


class _MessageChannel:
    """The messages of one kind: a thread takes the turns one after another.

    Why this comes to an end. All workers have the same turns in the same order (`schedules.check`
    proves it of every program), so the two ends of each message meet. A thread waits for two
    things: for its own worker to hand over what leaves, and for peers to do the same turn. The
    first never waits for this thread's later turns, for programs hold a send before everything that
    the send brings about. And one kind never waits behind another, as each has a thread, and tags
    or groups, of its own: the outputs of one micro-batch may need the rows of the next to be on
    their way.
    """

    def __init__(
        self, world: World, kind: MessageKind, link: EmulatedLink | None, names: Sequence[str]
    ) -> None:
        self._world, self._kind, self._link, self._names = world, kind, link, names
        self._route = world.route_of(kind)
        self._number = list(MessageKind).index(kind)
        self._thread = world.make_thread(kind.value.replace(" ", "-"))
        self._to_send: dict[CallKey, _Turn] = {}
        self._to_receive: dict[CallKey, _Turn] = {}
        self._to_oneself: dict[CallKey, TensorMessage] = {}

    def expect(self, messages: Sequence[Expected]) -> None:
        for expected in messages:
            if not expected.targets and not expected.sources:
                continue  # nobody but oneself
            turn = _Turn(expected, self._label(expected.key))
            if expected.targets:
                self._to_send[expected.key] = turn
            self._to_receive[expected.key] = turn
            turn.arrived = self._thread.submit(self._exchange, turn)

    def send(self, key: CallKey, messages: Messages) -> None:
        to_others = dict(messages)
        to_oneself = to_others.pop(self._world.rank, None)
        if to_oneself is not None:
            self._to_oneself[key] = to_oneself
        turn = self._to_send.pop(key, None)
        if turn is not None:
            turn.ready.set_result(to_others)
        for rank, message in to_others.items():
            self._count(rank, message)

    def receive(self, key: CallKey) -> dict[int, TensorMessage]:
        messages: dict[int, TensorMessage] = {}
        turn = self._to_receive.pop(key, None)
        if turn is not None:
            with self._wait(turn) as wait:
                arrived = wait.for_future(turn.arrived)
                # Here, and not in the channel's thread: the native library orders its work before
                # what comes next on the stream of the thread that waits.
                arrived.under_way.wait_for_native(wait)
            messages |= arrived.messages
        if key in self._to_oneself:
            messages[self._world.rank] = self._to_oneself.pop(key)
        return dict(sorted(messages.items()))

    def finish(self) -> None:
        for turn in self._to_receive.values():
            with self._wait(turn) as wait:
                wait.for_future(turn.arrived)
        self._to_receive.clear()

    def close(self) -> None:
        self._thread.close()
        for turn in self._to_send.values():
            turn.ready.cancel()  # else the thread would wait for it for ever

    def _exchange(self, turn: _Turn) -> _Arrived:
        """Heads both ways, then parts both ways. Runs in the channel's thread.

        A head tells how much memory its message needs; therefore all heads come before any part.
        """
        # No time limit: this is the worker's own computation, and `close` ends it.
        messages = turn.ready.result() if turn.expected.targets else {}
        if self._link is not None and messages:
            time.sleep(self._link.seconds(_num_bytes(messages)))
        heads = self._exchange_heads(turn, messages)
        arriving = {}
        for rank, head in heads.items():
            self._check_label(rank, label_of(head), turn)
            arriving[rank] = make_room(head, self._world.member.device)
        return _Arrived(arriving, self._exchange_parts(turn, messages, arriving))

    def _exchange_heads(self, turn: _Turn, messages: Messages) -> dict[int, Tensor]:
        heads = {}
        for rank in turn.expected.sources:
            heads[rank] = torch.empty(HEAD_NUMBERS, dtype=torch.int64)
        sends = []
        for rank, message in messages.items():
            sends.append(Transfer(rank, make_head(turn.label, message), self._tag(0)))
        receives = [Transfer(rank, head, self._tag(0)) for rank, head in heads.items()]
        wait = self._wait(turn)
        under_way = self._route.begin(sends, receives, wait)
        with wait:
            under_way.wait_for_host(wait)
        return heads

    def _exchange_parts(self, turn: _Turn, messages: Messages, arriving: Messages) -> UnderWay:
        wait = self._wait(turn)
        under_way = self._route.begin(self._parts(messages), self._parts(arriving), wait)
        with wait:
            under_way.wait_for_host(wait)
        return under_way

    def _parts(self, messages: Messages) -> list[Transfer]:
        transfers = []
        for rank, message in messages.items():
            for number, part in enumerate(message.parts):
                transfers.append(Transfer(rank, part, self._tag(1 + number)))
        return transfers

    def _check_label(self, rank: int, label: Sequence[int], turn: _Turn) -> None:
        """Raises `LaunchError` when a message is not the expected one."""
        if list(label) == turn.label:
            return
        sender = self._world.member.in_words([rank])
        receiver = self._world.member.in_words([self._world.rank])
        place = place_in_words(turn.expected.key, self._names)
        differences = _differences(label, turn.label)
        raise LaunchError(
            f"{sender} sent a message that {receiver} does not expect ({self._kind.value} of "
            f"{place}): {differences}; the two do not run the same schedule, which is a "
            "fault of dougong: please report it with both logs"
        )

    def _count(self, rank: int, message: TensorMessage) -> None:
        """Take down what goes to a peer: the head, and each part. Whole numbers tell sizes."""
        sent, kind = self._world.sent, TrafficKind(self._kind.value)
        sent.add(TrafficKind.SIZES, rank, HEAD_BYTES)
        for part in message.parts:
            of = TrafficKind.SIZES if part.dtype == torch.int64 else kind
            sent.add(of, rank, part.nbytes)

    def _label(self, key: CallKey) -> list[int]:
        return [self._world.member.generation, self._world.step, *key, self._number]

    def _tag(self, position: int) -> int:
        """A number for a head (0) or a part (from 1), the same at both ends. It need not name the
        turn: messages of one kind come in order, and one out of order is found by its label."""
        return self._number * (MOST_PARTS + 1) + position

    def _wait(self, turn: _Turn) -> PeerWait:
        place = place_in_words(turn.expected.key, self._names)
        peers = turn.expected.sources or turn.expected.targets
        what = f"{self._kind.value} of {place}, step {self._world.step}"
        return PeerWait(self._world.member, peers, what)


def _num_bytes(messages: Messages) -> int:
    return sum(message.num_bytes for message in messages.values())


def _differences(label: Sequence[int], due: Sequence[int]) -> str:
    """Where a message's label is not the one that is due, in words."""
    differences = []
    for name, found, wanted in zip(LABEL, label, due, strict=True):
        if found != wanted:
            differences.append(f"{name} {found} against {wanted}")
    return ", ".join(differences)
