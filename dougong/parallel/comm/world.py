"""All workers of a generation, and what they move between each other.

Only moves, and sums of whole numbers: no collective here ever adds a float. Point-to-point messages
and gathers are all that dispatch, combine and the ordered reductions need, so the same code serves
gloo, NCCL and HCCL.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from dougong.errors import PeerError
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.bridges import Bridges
from dougong.parallel.comm.meeting import GroupMaker, leave_groups, meet, not_joined
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.route import Groups, Route, UnderWay
from dougong.parallel.comm.threads import MessageThread
from dougong.parallel.comm.traffic import SentTraffic, TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.schedules.operation import MessageKind

TAGS, TRANSFERS_PER_PEER = 1 << 16, 1 << 12
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Pending:
    """Transfers between attention workers that have begun. The tensors may neither be read nor
    changed before `wait` has returned."""

    _under_way: UnderWay
    _host: Future[None] | None
    _new_wait: Callable[[], PeerWait]

    def is_done(self) -> bool:
        """Whether `wait` would return at once. Raises PeerError when a peer is lost."""
        if self._host is not None and not self._host.done():
            return False
        with self._new_wait():
            return all(work.is_completed() for work in self._under_way.native)

    def wait(self) -> None:
        """Until all have been sent and received. Raises PeerError when a peer is lost or does not
        come."""
        with self._new_wait() as wait:
            self._under_way.wait_for_native(wait)
            if self._host is not None:
                wait.for_future(self._host)


class World:
    """All workers of a generation: gloo between everybody, the native library inside an island.

    There are process groups for each purpose, so that large messages do not hold up small ones: one
    for gathers, which computation waits for; one for gradients and parameters (`transfer`); those
    of every kind of message between attention and experts (`route_of`), for `Exchange`; and one for
    snapshots of the state (`snapshots`). All but gathers go on beside the computation.
    """

    def __init__(
        self,
        member: Membership,
        everybody: Groups,
        attention: Groups,
        kinds: Mapping[MessageKind, Groups],
        snapshots: Groups | None = None,
        bridges: Bridges | None = None,
    ) -> None:
        """`everybody`: the groups of gathers; `attention`: those of gradients and parameters;
        `kinds`: those of every kind of message between attention and experts; `snapshots`: those of
        the state's copies, which lie in host memory. Collective where `bridges` join the workers'
        islands; raises what `Bridges.open` does."""
        self.member = member
        self.rank = member.rank
        self.size = member.size
        self.step = 0
        self.sent = SentTraffic(member.size)
        self._everybody = Route(everybody)
        self.snapshots = Route(snapshots or Groups())
        self._threads: list[MessageThread] = []
        self._waiter = self.make_thread("transfers")
        self._mover = self.make_thread("moves")
        self._num_transfers = 0
        # The groups call a store of ours through its Python object, which their own reference does
        # not keep.
        self._store: Store | None = None
        self._at_leaving: list[Callable[[], None]] = []
        self._bridges = bridges or Bridges(member)
        self._attention = self._route("dense", attention, member.attention)
        self._kinds: dict[MessageKind, Route] = {}
        for kind in MessageKind:
            groups = kinds.get(kind, Groups())
            self._kinds[kind] = self._route(kind.value, groups, range(member.size))

    @staticmethod
    def alone(device: torch.device | None = None) -> World:
        """A world of one worker: nothing is sent."""
        device = device or torch.device("cpu")
        return World(Membership(0, 1, 1, "", (), device, (0,)), Groups(), Groups(), {})

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
        everybody = Groups(dist.group.WORLD)
        gloo = maker.make(list(member.attention))
        more = maker.make_more(list(member.attention))
        attention = Groups(gloo, maker.make_native(member.attention), more)
        kinds = maker.make_groups_of_kinds()
        snapshots = Groups(maker.make(list(range(member.size))) if member.keeps_snapshots else None)
        world = World(member, everybody, attention, kinds, snapshots, Bridges(member, store))
        world._store = store
        return world

    def _route(self, purpose: str, groups: Groups, among: Collection[int]) -> Route:
        ends = self._bridges.open(purpose, groups.connections, among, self.make_thread)
        return Route(groups, self.member.native_peers, ends)

    def leave(self) -> None:
        """End what `at_leaving` was given, and this generation's groups. Every worker has come to
        its end: nothing is under way."""
        self._end_what_is_due()
        if self._everybody.groups.gloo is not None:
            with PeerWait(self.member, range(self.size), "the end of the process groups"):
                if not self._end_threads("message_s"):
                    raise FutureTimeout
                self._bridges.close()
                leave_groups()
            self._everybody = Route(Groups())

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
        if self._everybody.groups.gloo is not None:
            leave_groups()
        self._everybody, self._attention, self._kinds = Route(Groups()), Route(Groups()), {}
        self.snapshots = Route(Groups())

    @property
    def native_groups(self) -> tuple[dist.ProcessGroup, ...]:
        """This worker's groups of its island's native library."""
        routes = [self._attention, *self._kinds.values()]
        groups = [route.groups.native for route in routes]
        return tuple(group for group in groups if group is not None)

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
        """How messages of one kind travel between attention and experts."""
        return self._kinds[kind]

    def facts_of(self, kind: MessageKind, peer: int) -> str:
        """How messages of one kind travel to this peer, in the words of the bridge to it; empty
        where there is none."""
        end = self._kinds[kind].ends.get(peer)
        return "" if end is None else end.facts()

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
        # Calls are in the same order on all workers, so their number, and a transfer's place among
        # those with the same peer, are the same at both ends: a tag that nobody has to agree on.
        first_tag = self._num_transfers % TAGS * TRANSFERS_PER_PEER
        self._num_transfers += 1
        self._count(kind, sends)
        peers = sorted({transfer.rank for transfer in (*sends, *receives)})
        what = f"{what}, step {self.step}"

        def new_wait() -> PeerWait:
            return PeerWait(self.member, peers, what)

        tagged_sends, tagged_receives = _tagged(sends, first_tag), _tagged(receives, first_tag)
        under_way = self._attention.begin(tagged_sends, tagged_receives, new_wait())
        host = None
        if under_way.needs_thread:
            host = self._waiter.submit(_wait_for_host, under_way, new_wait)
        return Pending(under_way, host, new_wait)

    def _count(self, kind: TrafficKind, sends: Sequence[Transfer]) -> None:
        for transfer in sends:
            self.sent.add(kind, transfer.rank, transfer.num_bytes)

    def group_of_attention(self) -> tuple[dist.ProcessGroup | None, bool]:
        """The group of all attention workers that a collective of the library may use, and whether
        it speaks from host memory while the tensors lie on a device."""
        if self.member.native_peers >= set(self.member.attention):
            return self._attention.groups.native, False
        return self._attention.groups.gloo, self.member.device.type != "cpu"

    def count_ring_of_attention(self, kind: TrafficKind, num_bytes: int) -> None:
        """Take down that the library adds up so many bytes of every attention worker."""
        self.sent.add_ring(kind, self.member.attention, self.rank, num_bytes)

    def wait_for_attention(self, what: str) -> PeerWait:
        """A wait for the other attention workers, from now on."""
        return PeerWait(self.member, self.member.attention, f"{what}, step {self.step}")

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

    def _fill(self, parts: Sequence[Tensor], what: str) -> None:
        """Send this worker's part to all others, and fill theirs, by rank, with what they send."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        sends = [Transfer(rank, parts[self.rank]) for rank in others]
        receives = [Transfer(rank, parts[rank]) for rank in others]
        self._count(TrafficKind.REPORTS, sends)
        self.move(self._everybody, sends, receives, f"{what}, step {self.step}")

    def move(
        self, route: Route, sends: Sequence[Transfer], receives: Sequence[Transfer], what: str
    ) -> None:
        """Send and receive by gloo, from host memory, until all has been sent and has come. Raises
        PeerError when a peer is lost or does not come."""
        peers = sorted({transfer.rank for transfer in (*sends, *receives)})

        def new_wait() -> PeerWait:
            return PeerWait(self.member, peers, what)

        under_way = route.begin(sends, receives, new_wait())
        if under_way.needs_thread:
            with new_wait() as wait:
                wait.for_future(self._mover.submit(_wait_for_host, under_way, new_wait))

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
        if self._everybody.groups.gloo is None:
            return total
        route = self._attention if attention_only else self._everybody
        peers = self.member.attention if attention_only else range(self.size)
        self.sent.add_ring(TrafficKind.COUNTS, peers, self.rank, total.nbytes)
        with PeerWait(self.member, peers, f"a sum of counts, step {self.step}"):
            dist.all_reduce(total, group=route.groups.gloo)
        return total

    def barrier(self) -> None:
        """Wait for everybody. Collective."""
        self.gather_bytes(b".", [1] * self.size, "all workers at one point")


def _tagged(transfers: Sequence[Transfer], first_tag: int) -> list[Transfer]:
    """With tags that count the transfers of every peer."""
    counts = Counter[int]()
    tagged = []
    for transfer in transfers:
        tagged.append(replace(transfer, tag=first_tag + counts[transfer.rank]))
        counts[transfer.rank] += 1
    return tagged


def _bytes_tensor(payload: bytes) -> Tensor:
    """uint8 [len(payload)]; torch makes none from an empty buffer."""
    if not payload:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8)


def _wait_for_host(under_way: UnderWay, new_wait: Callable[[], PeerWait]) -> None:
    """Runs in a thread of its own: a message of gloo is not known to be complete before somebody
    has waited for it."""
    with new_wait() as wait:
        under_way.wait_for_host(wait)
