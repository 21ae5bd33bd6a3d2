"""The messages of one kind, sent and received by a thread of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.accelerators.streams import Mark, mark, use_here, wait_for
from dougong.errors import LaunchError
from dougong.parallel.comm.all_to_all import AllToAll
from dougong.parallel.comm.message import LABEL, PartRoom, SplitTensor, labels_of, write_label
from dougong.parallel.comm.native import Landing
from dougong.parallel.comm.peers import PeerEnd, Peers, Sides
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.exchange.expected import Expected, Outgoing, Received, place_in_words
from dougong.parallel.schedules.operation import CallKey, MessageKind

_MOST_PARTS = 4


@dataclass(frozen=True)
class EmulatedLink:
    """An emulated connection: what a worker's messages of one kind take beside the real sending."""

    bytes_per_s: float
    latency_s: float

    def seconds(self, num_bytes: int) -> float:
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class _HandedOver:
    """What leaves, and how far the worker's stream had come by then."""

    outgoing: Outgoing
    marked: Mark


@dataclass
class _Turn:
    """What is exchanged for one site and micro-batch, while it waits or is under way.

    `ready`: what leaves, set by `send`; `rooms`: what will come, set by `make_room` or read from
    the table; `landing`: what the native library is to move, set by the channel's thread.
    `arrived` and `native`: what has come, and the marks behind which it lies there, from both
    threads; no `native` where the native library has no part in it.
    """

    expected: Expected
    peers: Peers
    ready: Future[_HandedOver] = field(default_factory=Future)
    rooms: Future[Sequence[PartRoom]] = field(default_factory=Future)
    landing: Future[Landing] = field(default_factory=Future)
    arrived: Future[tuple[Received, Mark]] = field(default_factory=Future)
    native: Future[Mark] | None = None

    @property
    def key(self) -> CallKey:
        return self.expected.key

    def take(self) -> _HandedOver:
        """What leaves, as soon as the worker has handed it over. It is not held here any more."""
        handed_over = self.ready.result()
        self.ready = Future()
        return handed_over

    def hand_on(self, landing: Landing) -> None:
        """To the native library, which alone holds it from then on."""
        waited_for, self.landing = self.landing, Future()
        waited_for.set_result(landing)

    def give_up(self) -> None:
        """Free the threads that would wait for the worker for ever."""
        for future in (self.ready, self.rooms, self.landing):
            future.cancel()


class MessageChannel:
    """The messages of one kind: a thread takes the turns one after another.

    Why this comes to an end. All workers have the same turns in the same order (`schedules.check`
    proves it of every program), so the ends of each message meet. A thread waits for three things:
    for its own worker to hand over what leaves, for it to say what comes, and for peers to do the
    same turn. The first two never wait for this thread's later turns, for programs hold a send
    before everything that the send brings about. And one kind never waits behind another, as each
    has a thread, and tags or groups, of its own: the outputs of one micro-batch may need the rows
    of the next to be on their way.
    """

    def __init__(
        self, world: World, kind: MessageKind, link: EmulatedLink | None, names: Sequence[str]
    ) -> None:
        self._world, self._kind, self._link, self._names = world, kind, link, names
        self._number = list(MessageKind).index(kind)
        self._thread = world.make_thread(kind.value.replace(" ", "-"))
        self._peers: dict[Sides, Peers] = {}
        self._turns: dict[CallKey, _Turn] = {}

    def expect(self, expected: Expected) -> None:
        peers = self._peers_of(expected.sides)
        turn = _Turn(expected, peers)
        self._turns[turn.key] = turn
        if not peers.targets.ranks:
            turn.ready.set_result(_HandedOver(Outgoing(()), None))
        if not peers.sources.ranks:
            turn.rooms.set_result(())
        if peers.is_alone:
            return
        native = self._world.native
        if native is not None and peers.group_size:
            turn.native = native.exchange(turn.landing, lambda: self._wait(turn))
        turn.arrived = self._thread.submit(self._exchange, turn)

    def send(self, key: CallKey, outgoing: Outgoing) -> None:
        turn = self._turns[key]
        if turn.expected.table is not None:
            assert outgoing.table is not None, "a table goes ahead of rows"
            write_label(outgoing.table, turn.expected.table.sends, self._label(key))
        handed_over = _HandedOver(outgoing, mark(self._world.member.device))
        if turn.peers.is_alone:
            if turn.expected.table is not None and outgoing.table is not None:
                turn.expected.table.rooms(outgoing.table)
            received = _received(outgoing.parts)
            turn.arrived.set_result((received, handed_over.marked))
            return
        turn.ready.set_result(handed_over)
        self._count(turn, outgoing)

    def make_room(self, key: CallKey, rooms: Sequence[PartRoom]) -> None:
        turn = self._turns[key]
        if not turn.peers.is_alone and not turn.rooms.done():
            turn.rooms.set_result(rooms)

    def receive(self, key: CallKey) -> Received:
        turn = self._turns.pop(key)
        received, *marks = self._await(turn)
        # What it holds was put there by other streams, and is read by this thread's.
        for marked in marks:
            wait_for(marked, self._world.member.device)
        use_here(received.parts)
        return received

    def _await(self, turn: _Turn) -> tuple[Received, Mark, Mark]:
        with self._wait(turn) as wait:
            received, marked = wait.for_future(turn.arrived)
            native = None if turn.native is None else wait.for_future(turn.native)
        return received, marked, native

    def finish(self) -> None:
        for turn in self._turns.values():
            if not turn.peers.is_alone:
                self._await(turn)
        self._turns.clear()

    def close(self) -> None:
        self._thread.close()
        for turn in self._turns.values():
            turn.give_up()

    # In the channel's thread

    def _exchange(self, turn: _Turn) -> tuple[Received, Mark]:
        try:
            return self._exchange_now(turn)
        except BaseException as error:
            # The native library's thread waits for what this one hands on.
            if turn.native is not None and not turn.landing.done():
                turn.landing.set_exception(error)
            raise

    def _exchange_now(self, turn: _Turn) -> tuple[Received, Mark]:
        """The table, then the parts, each way. No time limit at first: what is waited for is the
        worker's own computation, and `close` ends it."""
        handed_over, device = turn.take(), self._world.member.device
        outgoing = handed_over.outgoing
        if self._link is not None and turn.peers.targets.ranks:
            time.sleep(self._link.seconds(_num_bytes(outgoing, turn.peers)))
        table = self._exchange_table(turn, outgoing.table)
        if table is not None and turn.expected.table is not None:
            turn.rooms.set_result(turn.expected.table.rooms(table))
        arriving = [room.allocate(device) for room in turn.rooms.result()]
        wait_for(handed_over.marked, device)
        use_here(part.values for part in outgoing.parts)
        self._exchange_in_island(turn, outgoing.parts, arriving, handed_over.marked)
        self._move_far(turn, outgoing.parts, arriving, first_tag=1)
        return _received(arriving), mark(device)

    def _exchange_table(self, turn: _Turn, leaving: Tensor | None) -> Tensor | None:
        """All senders' shares, where this worker receives any, each checked."""
        spec, peers = turn.expected.table, turn.peers
        if spec is None:
            return None
        sent = SplitTensor(leaving, spec.sends) if leaving is not None else None
        coming = None
        if peers.sources.ranks:
            coming = PartRoom(spec.receives, (), torch.int64).allocate(torch.device("cpu"))
        self._by_gloo(turn, sent, coming)
        self._move_far(turn, [sent] if sent else [], [coming] if coming else [], first_tag=0)
        if coming is None:
            return None
        self._check_labels(turn, coming)
        return coming.values

    def _exchange_in_island(
        self,
        turn: _Turn,
        leaving: Sequence[SplitTensor],
        arriving: Sequence[SplitTensor],
        handed_over: Mark,
    ) -> None:
        device, peers = self._world.member.device, turn.peers
        pairs = _pairs(turn.expected.num_parts, leaving, arriving)
        if turn.native is not None:
            parts = [AllToAll.of(peers, *pair, device) for pair in pairs]
            turn.hand_on(Landing(parts, (handed_over, mark(device))))
            return
        for sent, coming in pairs:
            self._by_gloo(turn, sent, coming)

    def _by_gloo(self, turn: _Turn, sent: SplitTensor | None, coming: SplitTensor | None) -> None:
        """One part of what stays in the island, through host memory."""
        peers = turn.peers
        if not peers.group_size:
            if sent is not None and coming is not None:
                _copy_own_share(peers, sent, coming)
            return
        part = AllToAll.of(peers, sent, coming, torch.device("cpu"))
        hosted = part.on_host()
        with self._wait(turn) as wait:
            wait.for_collective([hosted.begin(self._world.group_of_island(self._kind))])
        if hosted is not part:
            part.received.copy_(hosted.received)

    def _move_far(
        self,
        turn: _Turn,
        leaving: Sequence[SplitTensor],
        arriving: Sequence[SplitTensor],
        first_tag: int,
    ) -> None:
        """What goes to other islands and comes from there: a message for each share that is not
        empty."""
        sends = self._transfers(turn.peers.targets, leaving, first_tag)
        receives = self._transfers(turn.peers.sources, arriving, first_tag)
        if not sends and not receives:
            return
        wait = self._wait(turn)
        under_way = self._world.route_of(self._kind).begin(sends, receives, wait)
        with wait:
            under_way.wait_for_host(wait)

    def _transfers(
        self, end: PeerEnd, parts: Sequence[SplitTensor], first_tag: int
    ) -> list[Transfer]:
        transfers = []
        for number, part in enumerate(parts if end.far else ()):
            shares = part.values.split(list(part.sizes))
            for place, rank in end.far:
                transfers.append(Transfer(rank, shares[place], self._tag(first_tag + number)))
        return transfers

    def _check_labels(self, turn: _Turn, table: SplitTensor) -> None:
        """Raises `LaunchError` when a table is not the expected one."""
        due, found = self._label(turn.key), labels_of(table.values, table.sizes)
        wrong = (found != due).any(1).nonzero()[0]
        if not len(wrong):
            return
        member, place = self._world.member, int(wrong[0])
        sender = member.in_words([turn.peers.sources.ranks[place]])
        where = place_in_words(turn.key, self._names)
        differences = _differences(found[place].tolist(), due)
        raise LaunchError(
            f"{sender} sent a message that {member.in_words([member.rank])} does not expect "
            f"({self._kind.value} of {where}): {differences}; the two do not run the same "
            "schedule, which is a fault of dougong: please report it with both logs"
        )

    def _count(self, turn: _Turn, outgoing: Outgoing) -> None:
        """Take down what goes to each peer: the table, and each part."""
        sent, ranks = self._world.sent, turn.peers.targets.ranks
        if turn.expected.table is not None:
            sent.add_to_each(TrafficKind.SIZES, ranks, turn.expected.table.sends, 8)
        for part in outgoing.parts:
            kind = TrafficKind(self._kind.value)
            sent.add_to_each(kind, ranks, part.sizes, part.row_bytes)

    def _label(self, key: CallKey) -> list[int]:
        return [self._world.member.generation, self._world.step, *key]

    def _tag(self, position: int) -> int:
        """A number for a table (0) or a part (from 1), the same at both ends. It need not name the
        turn: messages of one kind come in order, and one out of order is found by its label."""
        return self._number * (_MOST_PARTS + 1) + position

    def _peers_of(self, sides: Sides) -> Peers:
        if sides not in self._peers:
            self._peers[sides] = Peers.of(sides, self._world.member)
        return self._peers[sides]

    def _wait(self, turn: _Turn) -> PeerWait:
        place = place_in_words(turn.key, self._names)
        what = f"{self._kind.value} of {place}, step {self._world.step}"
        return PeerWait(self._world.member, turn.peers.others, what)


def _received(parts: Sequence[SplitTensor]) -> Received:
    return Received([part.values for part in parts], [part.sizes for part in parts])


def _pairs(
    num_parts: int, leaving: Sequence[SplitTensor], arriving: Sequence[SplitTensor]
) -> list[tuple[SplitTensor | None, SplitTensor | None]]:
    """Each part, on both sides; None on a side where this worker is not."""
    nothing = [None] * num_parts
    return list(zip(leaving or nothing, arriving or nothing, strict=True))


def _copy_own_share(peers: Peers, sent: SplitTensor, coming: SplitTensor) -> None:
    there, here = peers.targets.own, peers.sources.own
    if there is not None and here is not None:
        share = sent.values.split(list(sent.sizes))[there]
        coming.values.split(list(coming.sizes))[here].copy_(share)


def _num_bytes(outgoing: Outgoing, peers: Peers) -> int:
    """Of all that goes to others."""
    total = 0
    for part in outgoing.parts:
        own = 0 if peers.targets.own is None else part.sizes[peers.targets.own]
        total += (sum(part.sizes) - own) * part.row_bytes
    return total


def _differences(label: Sequence[int], due: Sequence[int]) -> str:
    """Where a message's label is not the one that is due, in words."""
    differences = []
    for name, found, wanted in zip(LABEL, label, due, strict=True):
        if found != wanted:
            differences.append(f"{name} {found} against {wanted}")
    return ", ".join(differences)
