"""All workers of a generation, and what they move between each other.

Only moves, and sums of whole numbers: no collective here ever adds a float. Point-to-point messages
and gathers are all that dispatch, combine and the ordered reductions need, so the same code serves
gloo, NCCL and HCCL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from dougong.errors import PeerError
from dougong.ops.bit_sum import bit_sums
from dougong.parallel.bridge.bridges import Bridges
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.meeting import GroupMaker, leave_groups, meet, not_joined
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.native import Collective, NativeLibrary
from dougong.parallel.comm.route import (
    HostTransfers,
    Pending,
    Route,
    TransferTags,
    UnderWay,
    split_native,
    wait_for_host,
)
from dougong.parallel.comm.tally import MessageTally
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.traffic import SentTraffic, TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import NewWait, PeerWait
from dougong.parallel.comm.world_groups import WorldGroups
from dougong.parallel.schedules.operation import Direction, MessageKind

_LENGTH_BYTES = 8


class World:
    """All workers of a generation: gloo between everybody, the native library inside an island.

    There are process groups for each purpose, so that large messages do not hold up small ones: one
    for gathers, which computation waits for; one for gradients and parameters (`transfer`); those
    of every kind of message between attention and experts, for `Exchange`; and one for snapshots of
    the state (`snapshots`). All but gathers go on beside the computation. The native library has
    one group, and all that it does is asked of `native`, in one order.
    """

    def __init__(
        self, member: Membership, groups: WorldGroups, bridges: Bridges | None = None
    ) -> None:
        """Collective where `bridges` join the workers' islands; raises what `Bridges.open` does."""
        self.member = member
        self.rank = member.rank
        self.size = member.size
        self.step = 0
        self.sent = SentTraffic(member.rank, member.size)
        self.tally = MessageTally()
        self._groups = groups
        self.snapshots = Route(groups.snapshots)
        self._threads: list[MessageThread] = []
        self._waiter = self.make_thread("transfers")
        self._mover = self.make_thread("moves")
        self.native: NativeLibrary | None = None
        if groups.native is not None:
            thread = self.make_thread("native")
            self.native = NativeLibrary(groups.native, member.device, thread)
        self._tags = TransferTags()
        self.on_host = HostTransfers(member, groups.attention, self._tags, self.make_thread)
        # The groups call a store of ours through its Python object, which their own reference does
        # not keep.
        self._store: Store | None = None
        self._at_leaving: list[Callable[[], None]] = []
        self._bridges = bridges or Bridges(member)
        self._dense = self._open_route("dense", groups.attention, None, member.attention)
        self._far: dict[MessageKind, Route] = {}
        for kind in MessageKind:
            far, everybody = groups.far.get(kind.direction), range(member.size)
            self._far[kind] = self._open_route(kind.value, far, kind.direction, everybody)

    def _open_route(
        self,
        purpose: str,
        group: dist.ProcessGroup | None,
        direction: Direction | None,
        among: Collection[int],
    ) -> Route:
        connections = self._groups.connections(direction)
        return Route(group, self._bridges.open(purpose, connections, among, self.make_thread))

    @staticmethod
    def alone(device: torch.device | None = None) -> World:
        """A world of one worker: nothing is sent."""
        device = device or torch.device("cpu")
        return World(Membership(0, 1, 1, "", (), device, (0,)), WorldGroups())

    @staticmethod
    def join(
        member: Membership,
        store: Store,
        note: Callable[[Arrival], None] = lambda arrival: None,
    ) -> World:
        """Meet the generation's other workers at its store. Collective: every worker calls it.
        `note` is told how far it has come.

        Raises `PeerError` when not everybody came within `rendezvous_s`, or when one of them then
        takes no part in a process group within `message_s`.
        """
        maker = GroupMaker(member)
        try:
            meet(member, store, note)
            note(Arrival.CONNECTS)
            maker.make_first(store)
        except (RuntimeError, ValueError) as error:
            raise not_joined(member, str(error)) from error
        everybody = list(range(member.size))
        groups = WorldGroups(
            everybody=dist.group.WORLD,
            attention=maker.make(list(member.attention)),
            snapshots=maker.make(everybody) if member.keeps_snapshots else None,
            island=maker.make_islands(),
            far=maker.make_far(),
            native=maker.make_native(),
            more=maker.make_more(),
        )
        world = World(member, groups, Bridges(member, store))
        world._store = store
        return world

    def leave(self) -> None:
        """End what `at_leaving` was given, and this generation's groups. Every worker has come to
        its end: nothing is under way."""
        self._end_what_is_due()
        if self._groups.everybody is not None:
            with PeerWait(self.member, range(self.size), "the end of the process groups"):
                if not self._end_threads("message_s"):
                    raise FutureTimeout
                self._bridges.close()
                leave_groups()
            self._forget_groups()

    def free(self) -> None:
        """Have whoever waits for a thread of messages raise PeerError: the generation is over. Any
        thread may call this."""
        me = self.member.in_words([self.rank])
        self.member.waits.end(
            PeerError(f"{me}: generation {self.member.generation} has been ended")
        )
        self._bridges.abort()

    def abandon(self) -> None:
        """Leave a generation that is broken, without a word to its other workers. Its connections
        have been ended before, and `native_groups` aborted, so that what is under way raises soon;
        a thread that does not come to its end is left to itself."""
        self._end_what_is_due()
        self._end_threads("thread_end_s")
        self._bridges.close()
        if self._groups.everybody is not None:
            leave_groups()
        self._forget_groups()

    def _forget_groups(self) -> None:
        self._groups, self.snapshots, self.native = WorldGroups(), Route(), None
        self._dense, self._far = Route(), {}

    @property
    def native_groups(self) -> tuple[dist.ProcessGroup, ...]:
        """This worker's groups of its island's native library."""
        native = self.native
        return () if native is None else (native.group,)

    def make_thread(self, name: str) -> MessageThread:
        """A thread that ends with the world, for messages of a kind."""
        thread = MessageThread(f"dougong-{name}", self.member.device)
        self._threads.append(thread)
        return thread

    def _end_what_is_due(self) -> None:
        for end in self._at_leaving:
            end()
        self._at_leaving.clear()
        for thread in self._threads:
            thread.close()

    def _end_threads(self, limit: str) -> bool:
        """Until what has been begun has ended; whether it has within a field of `Deadlines`."""
        until = time.monotonic() + getattr(self.member.deadlines, limit)
        threads, self._threads = self._threads, []
        have_ended = [thread.await_end(max(0.0, until - time.monotonic())) for thread in threads]
        return all(have_ended)

    def at_leaving(self, end: Callable[[], None]) -> None:
        """Have this called when the world ends, in whatever way."""
        self._at_leaving.append(end)

    def begin_step(self, step: int) -> None:
        """What is exchanged from now on belongs to this step, in errors too."""
        self.step = step

    def route_of(self, kind: MessageKind) -> Route:
        """How messages of one kind travel to other islands."""
        return self._far[kind]

    def group_of_island(self, kind: MessageKind) -> dist.ProcessGroup:
        """gloo's group for messages of one kind that stay in the island."""
        return self._groups.island[kind]

    @property
    def everybody(self) -> dist.ProcessGroup | None:
        """gloo's group for gathers."""
        return self._groups.everybody

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is transferred inside is no part of the step: neither its bytes nor its sums
        count."""
        sent, is_on = self.sent, self.tally.is_on
        self.sent, self.tally.is_on = SentTraffic(self.rank, self.size), False
        yield
        self.sent, self.tally.is_on = sent, is_on

    def transfer(
        self,
        kind: TrafficKind,
        sends: Sequence[Transfer],
        receives: Sequence[Transfer],
        what: str,
    ) -> Pending:
        """Begin to send and receive between attention workers, which all call this equally often,
        and return at once. Raises PeerError when a peer is known to have ended.

        Messages between two ranks arrive in the order of both sides' lists. `what` is transferred,
        in words.
        """
        self._count(kind, sends)
        arrived = self._tallied(what, sends, receives) if kind is TrafficKind.SUMS else None
        peers = sorted({transfer.rank for transfer in (*sends, *receives)})
        what = f"{what}, step {self.step}"

        def new_wait() -> PeerWait:
            return PeerWait(self.member, peers, what)

        sends, receives = self._tags.give(kind, sends, receives)
        leaving, native_sends = split_native(sends, self.member.native_peers)
        coming, native_receives = split_native(receives, self.member.native_peers)
        native = host = None
        if self.native is not None and (native_sends or native_receives):
            native = self.native.transfer(native_sends, native_receives, new_wait)
        under_way = self._dense.begin(leaving, coming, new_wait())
        if under_way.needs_thread:
            host = self._waiter.submit(wait_for_host, under_way, new_wait)
        return Pending(under_way, host, native, self.member.device, new_wait, arrived)

    def transfer_on_host(
        self,
        kind: TrafficKind,
        sends: Sequence[Transfer],
        receives: Sequence[Transfer],
        what: str,
    ) -> Pending:
        """As `transfer`, of tensors in the machine's memory (`HostTransfers`)."""
        self._count(kind, sends)
        arrived = self._tallied(what, sends, receives) if kind is TrafficKind.SUMS else None
        what = f"{what}, step {self.step}"
        return self.on_host.begin(kind, sends, receives, what, arrived)

    def _tallied(
        self, what: str, sends: Sequence[Transfer], receives: Sequence[Transfer]
    ) -> Callable[[], None] | None:
        """Take the sums of what leaves; returns what does so for what comes, when it is there."""
        if not self.tally.is_on:
            return None

        def note(transfers: Sequence[Transfer], is_sent: bool) -> None:
            sums = bit_sums([transfer.tensor for transfer in transfers])
            peers = [transfer.rank for transfer in transfers]
            self.tally.note(what, peers, sums, is_sent=is_sent)

        note(sends, is_sent=True)
        return lambda: note(receives, is_sent=False)

    def _count(self, kind: TrafficKind, sends: Sequence[Transfer]) -> None:
        for transfer in sends:
            self.sent.add(kind, transfer.rank, transfer.num_bytes)

    def collective_of_attention(self, begin: Collective, values: Tensor, what: str) -> Pending:
        """Begin a library's operation on `values`, in place, of all attention workers together:
        native where all of them are in one island, else by gloo, from host memory. The values are
        neither read nor changed until `wait` has returned."""
        attention = self.member.attention
        self.sent.add_ring(TrafficKind.SUMS, attention, self.rank, values.nbytes)

        def new_wait() -> PeerWait:
            return PeerWait(self.member, attention, f"{what}, step {self.step}")

        under_way, native, host = UnderWay(), None, None
        if self.native is not None and self.member.native_peers == set(attention):
            native = self.native.collective(begin, values, new_wait)
        else:
            landing, group = values.cpu(), self._groups.attention
            assert group is not None, "a worker alone has nobody to add to"
            with new_wait():
                work = begin(landing, group)
            if landing is not values:
                under_way.landings.append((landing, values))
            host = self._waiter.submit(_wait_for_collective, work, new_wait)
        return Pending(under_way, host, native, self.member.device, new_wait)

    def gather_bytes(
        self, payload: bytes, sizes: Sequence[int] | None = None, what: str = "values of workers"
    ) -> list[bytes]:
        """Everybody's bytes, by rank. Collective. `what` they are, in words.

        `sizes[r]`: how many bytes rank r has, where everybody knows it; without it they tell each
        other first, in an exchange of its own.
        """
        if sizes is None:
            sizes = self._gather_lengths(len(payload), what)
        assert len(payload) == sizes[self.rank], (
            f"rank {self.rank} gathers {len(payload)} bytes, {sizes[self.rank]} due"
        )
        parts = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        parts[self.rank] = _bytes_tensor(payload)
        self._fill(parts, what)
        return [part.numpy().tobytes() for part in parts]

    def _fill(self, parts: Sequence[Tensor], what: str, limit: str = "message_s") -> None:
        """Send this worker's part to all others, and fill theirs, by rank, with what they send."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        sends = [Transfer(rank, parts[self.rank]) for rank in others]
        receives = [Transfer(rank, parts[rank]) for rank in others]
        self._count(TrafficKind.REPORTS, sends)
        what = f"{what}, step {self.step}"
        self.move(Route(self._groups.everybody), sends, receives, what, limit)

    def move(
        self,
        route: Route,
        sends: Sequence[Transfer],
        receives: Sequence[Transfer],
        what: str,
        limit: str = "message_s",
    ) -> None:
        """Send and receive by gloo, from host memory, until all has been sent and has come. Raises
        PeerError when a peer is lost or does not come within the `limit`, as in `PeerWait`."""
        peers = sorted({transfer.rank for transfer in (*sends, *receives)})

        def new_wait() -> PeerWait:
            return PeerWait(self.member, peers, what, limit)

        under_way = route.begin(sends, receives, new_wait())
        if under_way.needs_thread:
            with new_wait() as wait:
                wait.for_future(self._mover.submit(wait_for_host, under_way, new_wait))

    def _gather_lengths(self, length: int, what: str) -> list[int]:
        payload = length.to_bytes(_LENGTH_BYTES, "little")
        lengths = self.gather_bytes(payload, [_LENGTH_BYTES] * self.size, what)
        return [int.from_bytes(length, "little") for length in lengths]

    def add_counts(self, counts: Tensor, attention_only: bool = False) -> Tensor:
        """The sum of everybody's whole numbers (int64, on the CPU), exact in any order, as a new
        tensor. Collective over all workers, or over those with lanes."""
        assert counts.dtype == torch.int64, (
            f"{counts.dtype}: only whole numbers may be added by a library"
        )
        total = counts.clone()
        if self._groups.everybody is None:
            return total
        group = self._groups.attention if attention_only else self._groups.everybody
        peers = self.member.attention if attention_only else range(self.size)
        self.sent.add_ring(TrafficKind.COUNTS, peers, self.rank, total.nbytes)
        with PeerWait(self.member, peers, f"a sum of counts, step {self.step}"):
            dist.all_reduce(total, group=group)
        return total

    def barrier(self, limit: str = "message_s") -> None:
        """Wait for everybody, so long at most (a field of `Deadlines`). Collective."""
        parts = [torch.zeros(1, dtype=torch.uint8) for _ in range(self.size)]
        self._fill(parts, "all workers at one point", limit)


def _bytes_tensor(payload: bytes) -> Tensor:
    """uint8 [len(payload)]; torch makes none from an empty buffer."""
    if not payload:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8)


def _wait_for_collective(work: dist.Work, new_wait: NewWait) -> None:
    with new_wait() as wait:
        wait.for_collective([work])
