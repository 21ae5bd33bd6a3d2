"""Moving tensors between workers. Only moves, and sums of whole numbers: no collective here ever
adds a float.

A `World` is one generation of workers. Point-to-point messages and gathers are all that dispatch,
combine and the ordered reductions need, so the same code serves gloo, NCCL and HCCL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError, PeerError
from dougong.parallel.schedules import operation as schedules

TAGS, PLACES = 1 << 16, 1 << 12
PATIENCE = timedelta(minutes=10)
"""Longest wait for a peer's message. The controller ends a generation much sooner when a worker
dies."""


@dataclass(frozen=True)
class Membership:
    """A worker's place in its world. `islands`: (name, native backend or "gloo", ranks) of every
    island. `attention`: the ranks that hold dense tensors and exchange their gradients. `names`:
    the workers' names by rank, for errors; `deadlines`: how long to wait for each other."""

    rank: int
    size: int
    generation: int
    island: str
    islands: tuple[tuple[str, str, tuple[int, ...]], ...]
    device: torch.device
    attention: tuple[int, ...]
    names: tuple[str, ...] = ()
    deadlines: Deadlines = DEADLINES


@dataclass(frozen=True)
class Transfer:
    """A tensor for `rank`, or the memory for one from it. Contiguous."""

    rank: int
    tensor: Tensor


@contextmanager
def naming_lost_peers(rank: int) -> Iterator[None]:
    """A peer that dies while gradients are exchanged is a PeerError."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(
            f"worker {rank} lost a message of the gradients' exchange: {error}"
        ) from error


@dataclass
class Pending:
    """Messages under way. The tensors may neither be read nor changed before `wait` has
    returned."""

    _rank: int
    _host: Future[None] | None = None
    _native: Sequence[dist.Work] = ()
    _landing: Sequence[tuple[Tensor, Tensor]] = ()

    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        return (self._host is None or self._host.done()) and all(
            work.is_completed() for work in self._native
        )

    def wait(self) -> None:
        """Until all have been sent and received. Raises PeerError when a peer is lost."""
        with naming_lost_peers(self._rank):
            for work in self._native:
                work.wait(PATIENCE)
            if self._host is not None:
                self._host.result()
        for host, target in self._landing:
            target.copy_(host)


@dataclass(frozen=True)
class Groups:
    """The process groups of one channel: gloo between everybody, the native library inside one's
    island."""

    gloo: dist.ProcessGroup | None = None
    native: dist.ProcessGroup | None = None


class World:
    """All workers of a generation: gloo between everybody, the native library inside an island.

    Channels of their own, so that large messages do not hold up small ones: `exchange` and `gather`
    for what computation waits for, `post` for gradients and weights, and `lines` for what `mail`
    carries between attention and experts; the last two travel beside the computation.
    """

    def __init__(
        self, member: Membership, near: Groups, sums: Groups, lines: Mapping[str, Groups]
    ) -> None:
        self.member = member
        self.rank = member.rank
        self.size = member.size
        self._gloo = near.gloo
        self._native = near.native
        self._sums = sums
        self._lines = lines
        peers = next((ranks for name, _, ranks in member.islands if name == member.island), ())
        self._native_peers = frozenset(peers if near.native is not None else ())
        self._waiter = ThreadPoolExecutor(1, "dougong-messages")
        self._num_posts = 0
        self.bytes_sent = 0

    @staticmethod
    def alone(device: torch.device | None = None) -> World:
        """A world of one worker: nothing is sent."""
        device = device or torch.device("cpu")
        return World(Membership(0, 1, 1, "", (), device, (0,)), Groups(), Groups(), {})

    @staticmethod
    def join(member: Membership, store_address: tuple[str, int]) -> World:
        """Meet the generation's other workers at the controller's store. Collective: every worker
        calls it.

        Raises `LaunchError` when not everybody came within the deadline.
        """
        host, port = store_address
        try:
            patience = timedelta(seconds=member.deadlines.rendezvous_s)
            store = TCPStore(host, port, is_master=False, timeout=patience)
            prefixed = PrefixStore(f"generation-{member.generation}", store)
            dist.init_process_group(
                "gloo", store=prefixed, rank=member.rank, world_size=member.size, timeout=patience
            )
        except (RuntimeError, ValueError) as error:
            raise LaunchError(
                f"worker {member.rank} of {member.size} could not join generation {member.generation} "
                f"at {host}:{port}: {error}; check that every node reaches that address"
            ) from error
        near = Groups(dist.group.WORLD, _native_group(member, range(member.size)))
        sums = Groups(
            dist.new_group(list(member.attention), backend="gloo", timeout=PATIENCE),
            _native_group(member, member.attention),
        )
        everybody = range(member.size)
        gloo = {
            channel: dist.new_group(backend="gloo", timeout=PATIENCE)
            for channel in ("dispatch", "combine")
        }
        lines = {
            m.value: Groups(gloo[m.direction], _native_group(member, everybody))
            for m in schedules.MessageKind
        }
        return World(member, near, sums, lines)

    def leave(self) -> None:
        """End this generation's groups."""
        if self._gloo is not None:
            self._waiter.shutdown()
            dist.destroy_process_group()
            self._gloo = self._native = None

    def groups_of(self, line: str) -> Groups:
        """The groups of one line of `mail`; none in a world of one."""
        return self._lines.get(line, Groups())

    @property
    def native_peers(self) -> frozenset[int]:
        """The ranks that the island's native library reaches, oneself among them."""
        return self._native_peers

    def exchange(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> None:
        """Send `outgoing[r]` to each rank r and fill `incoming[r]` from it; returns when all have
        arrived.

        Both sides know which messages are due and their sizes; empty tensors are not sent. Messages
        between the same two ranks arrive in the order of the calls.
        """
        out = {r: t for r, t in outgoing.items() if t.numel() and r != self.rank}
        into = {r: t for r, t in incoming.items() if t.numel() and r != self.rank}
        if self.rank in incoming and incoming[self.rank].numel():
            incoming[self.rank].copy_(outgoing[self.rank])
        self.bytes_sent += sum(t.numel() * t.element_size() for t in out.values())
        near = self._native_peers
        self._post(
            {r: t for r, t in out.items() if r in near},
            {r: t for r, t in into.items() if r in near},
            self._native,
        )
        far_in = {r: self.on_host(t) for r, t in into.items() if r not in near}
        self._post(
            {r: self.on_host(t, copy=True) for r, t in out.items() if r not in near},
            far_in,
            self._gloo,
        )
        for r, host in far_in.items():
            if host is not into[r]:
                into[r].copy_(host)

    def post(self, outgoing: Sequence[Transfer], incoming: Sequence[Transfer]) -> Pending:
        """Begin to send and receive between attention workers, which all call this equally often,
        and return at once.

        Messages between two ranks arrive in the order of both sides' lists.
        """
        number, self._num_posts = self._num_posts, self._num_posts + 1
        self.bytes_sent += sum(m.tensor.numel() * m.tensor.element_size() for m in outgoing)
        pending = Pending(self.rank)
        near, group = self._native_peers, self._sums.native
        operations = [
            dist.P2POp(dist.isend, m.tensor, m.rank, group) for m in outgoing if m.rank in near
        ]
        operations += [
            dist.P2POp(dist.irecv, m.tensor, m.rank, group) for m in incoming if m.rank in near
        ]
        if operations:
            pending._native = dist.batch_isend_irecv(operations)
        far_in = [m for m in incoming if m.rank not in near]
        far_out = [m for m in outgoing if m.rank not in near]
        into = [Transfer(m.rank, self.on_host(m.tensor)) for m in far_in]
        out = [Transfer(m.rank, self.on_host(m.tensor, copy=True)) for m in far_out]
        if into or out:
            works = [*self._begin(dist.irecv, into, number), *self._begin(dist.isend, out, number)]
            pending._host = self._waiter.submit(_wait_for, works)
        landing = [(host.tensor, m.tensor) for host, m in zip(into, far_in, strict=True)]
        pending._landing = [(host, target) for host, target in landing if host is not target]
        return pending

    def group_of_sums(self) -> tuple[dist.ProcessGroup | None, bool]:
        """The group of all attention workers that a collective of the library may use, and whether
        it speaks from host memory while the tensors lie on a device."""
        if self._native_peers >= set(self.member.attention):
            return self._sums.native, False
        return self._sums.gloo, self.member.device.type != "cpu"

    def _begin(self, how: Any, messages: Sequence[Transfer], number: int) -> list[dist.Work]:
        """Each message has a tag of its own, the same on both sides: which post it belongs to, and
        its place there."""
        works, places = [], Counter[int]()
        for message in messages:
            tag = number % TAGS * PLACES + places[message.rank]
            works.append(how(message.tensor, message.rank, self._sums.gloo, tag))
            places[message.rank] += 1
        return works

    def _post(
        self, out: Mapping[int, Tensor], into: Mapping[int, Tensor], group: dist.ProcessGroup | None
    ) -> None:
        operations = [dist.P2POp(dist.irecv, into[r], r, group) for r in sorted(into)]
        operations += [dist.P2POp(dist.isend, out[r], r, group) for r in sorted(out)]
        if not operations:
            return
        try:
            for work in dist.batch_isend_irecv(operations):
                work.wait(PATIENCE)
        except RuntimeError as error:
            peers = sorted({*out, *into})
            raise PeerError(
                f"worker {self.rank} lost a message with workers {peers}: {error}"
            ) from error

    def on_host(self, tensor: Tensor, copy: bool = False) -> Tensor:
        """gloo speaks from host memory: stage what lies on a device."""
        if tensor.device.type == "cpu":
            return tensor
        return tensor.cpu() if copy else torch.empty(tensor.shape, dtype=tensor.dtype)

    def gather_bytes(self, payload: bytes, sizes: Sequence[int] | None = None) -> list[bytes]:
        """Everybody's bytes, by rank. Collective.

        `sizes[r]`: how many bytes rank r has, where everybody knows it; without it they tell each
        other first, in an exchange of its own.
        """
        if sizes is None:
            length = len(payload).to_bytes(8, "little")
            lengths = self.gather_bytes(length, [8] * self.size)
            sizes = [int.from_bytes(length, "little") for length in lengths]
        assert len(payload) == sizes[self.rank], (
            f"rank {self.rank} gathers {len(payload)} bytes, {sizes[self.rank]} due"
        )
        mine = torch.frombuffer(bytearray(payload or b"."), dtype=torch.uint8)[: len(payload)]
        parts = {r: torch.empty(size, dtype=torch.uint8) for r, size in enumerate(sizes)}
        parts[self.rank] = mine
        peers = {r: t for r, t in parts.items() if r != self.rank}
        self._post(
            {r: mine for r in peers if mine.numel()},
            {r: t for r, t in peers.items() if t.numel()},
            self._gloo,
        )
        return [parts[r].numpy().tobytes() for r in range(self.size)]

    def gather(self, values: Sequence[float], sizes: Sequence[int]) -> list[list[float]]:
        """Everybody's float64 values, by rank; `sizes[r]` says how many rank r has. Collective."""
        mine = torch.tensor(list(values), dtype=torch.float64)
        assert len(mine) == sizes[self.rank], (
            f"rank {self.rank} gathers {len(mine)} values, {sizes[self.rank]} due"
        )
        parts = {r: torch.empty(size, dtype=torch.float64) for r, size in enumerate(sizes)}
        parts[self.rank] = mine
        peers = {r: t for r, t in parts.items() if r != self.rank}
        self._post(
            {r: mine for r in peers if mine.numel()},
            {r: t for r, t in peers.items() if t.numel()},
            self._gloo,
        )
        return [parts[r].tolist() for r in range(self.size)]

    def add_counts(self, counts: Tensor, attention_only: bool = False) -> Tensor:
        """The sum of everybody's whole numbers (int64, on the CPU), exact in any order, as a new
        tensor. Collective over all workers, or over those with lanes."""
        assert counts.dtype == torch.int64, (
            f"{counts.dtype}: only whole numbers may be added by a library"
        )
        total = counts.clone()
        if self._gloo is None:
            return total
        try:
            dist.all_reduce(total, group=self._sums.gloo if attention_only else self._gloo)
        except RuntimeError as error:
            raise PeerError(
                f"worker {self.rank} lost a sum of counts with the other workers: {error}"
            ) from error
        return total

    def barrier(self) -> None:
        """Wait for everybody. Collective."""
        self.gather([0.0], [1] * self.size)


def _native_group(member: Membership, among: Collection[int]) -> dist.ProcessGroup | None:
    """The native library's group of one's island; everybody makes every island's, in the same
    order."""
    own = None
    for name, backend, ranks in member.islands:
        if backend != "gloo":
            group = dist.new_group(
                [r for r in ranks if r in among], backend=backend, timeout=PATIENCE
            )
            own = group if name == member.island else own
    return own


def _wait_for(works: Sequence[dist.Work]) -> None:
    for work in works:
        work.wait(PATIENCE)
