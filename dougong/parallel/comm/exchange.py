"""Letters between attention and experts workers, sent and received beside the computation.

Four *lines*, one for each kind of message (`schedules.operation.Message`), each a thread of its
own: dispatch and combine go on at the same time, and while the worker computes. A letter says
itself what it holds, so nothing is padded and nobody has to know a size before it comes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.errors import LaunchError, PeerError
from dougong.parallel.comm.world import PATIENCE, Groups, World
from dougong.parallel.schedules.operation import CallKey, MessageKind

STAMP = ("generation", "step", "site", "microbatch", "message")
MOST_PARTS, MOST_DIMENSIONS = 4, 2
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32)
_HEAD = len(STAMP) + 1 + MOST_PARTS * (2 + MOST_DIMENSIONS)


def in_words(key: CallKey, names: Sequence[str]) -> str:
    """Where in the step a letter belongs, in words; `names` of the model's modules, by site."""
    name = f" ({names[key[0]]})" if key[0] < len(names) else ""
    return f"site {key[0]}{name}, micro-batch {key[1]}"


@dataclass
class TensorMessage:
    """The parts of one message: at most four tensors of at most two dimensions. `works`: native
    messages under way."""

    parts: Sequence[Tensor]
    works: Sequence[dist.Work] = ()

    @property
    def num_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.parts)


@dataclass(frozen=True)
class EmulatedLink:
    """An emulated wire: what a worker's letters of one line take beside the real sending."""

    bytes_per_s: float
    latency_s: float

    def seconds(self, num_bytes: int) -> float:
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class Expected:
    """One exchange: whom this worker sends to and receives from for one site and micro-batch,
    itself left out."""

    key: CallKey
    targets: tuple[int, ...]
    sources: tuple[int, ...]


class Exchange:
    """One worker's letter box. `expect` says what is due in a step; then `send` and `receive`, in
    that order.

    `names`: what the model calls its sites, for errors.
    """

    def __init__(
        self, world: World, link: EmulatedLink | None = None, names: Sequence[str] = ()
    ) -> None:
        self.step = 0
        self.names = names
        self.bytes_sent = dict.fromkeys(MessageKind, 0)
        self._lines = {message: _PeerChannel(self, world, message, link) for message in MessageKind}

    def begin_step(self, step: int) -> None:
        """What is exchanged from now on belongs to this step."""
        self.step = step

    def expect(self, message: MessageKind, due: Sequence[Expected]) -> None:
        """All exchanges of one kind in this step, in an order that is the same for both ends of
        every letter."""
        self._lines[message].expect(due)

    def send(
        self, message: MessageKind, key: CallKey, letters: Mapping[int, TensorMessage]
    ) -> None:
        """Post letters by rank; returns at once. A letter to oneself is delivered at once."""
        self.bytes_sent[message] += self._lines[message].send(key, letters)

    def receive(self, message: MessageKind, key: CallKey) -> dict[int, TensorMessage]:
        """The letters of one exchange by rank, when all have come. Raises PeerError, or LaunchError
        for a letter that is not the one that was due."""
        return self._lines[message].receive(key)

    def finish(self) -> None:
        """Wait until everything has been sent: the end of a step."""
        for line in self._lines.values():
            line.finish()

    def close(self) -> None:
        """End the lines' threads."""
        for line in self._lines.values():
            line.close()


class _PeerChannel:
    """Letters of one kind. One thread takes the exchanges in their order."""

    def __init__(
        self, mail: Exchange, world: World, message: MessageKind, link: EmulatedLink | None
    ) -> None:
        self._mail, self._world, self._message, self._link = mail, world, message, link
        self._groups: Groups = world.groups_of(message.value)
        self._near = world.native_peers
        self._thread = ThreadPoolExecutor(1, f"dougong-{message.value.replace(' ', '-')}")
        self._outgoing: dict[CallKey, Future[Mapping[int, TensorMessage]]] = {}
        self._incoming: dict[CallKey, Future[dict[int, TensorMessage]]] = {}
        self._own: dict[CallKey, TensorMessage] = {}

    def expect(self, due: Sequence[Expected]) -> None:
        for exchange in due:
            if not exchange.targets and not exchange.sources:
                continue  # nobody but oneself
            self._outgoing[exchange.key] = Future()
            job = functools.partial(
                self._exchange, exchange, self._stamp(exchange.key), self._outgoing[exchange.key]
            )
            self._incoming[exchange.key] = self._thread.submit(job)

    def send(self, key: CallKey, letters: Mapping[int, TensorMessage]) -> int:
        others = {rank: letter for rank, letter in letters.items() if rank != self._world.rank}
        if self._world.rank in letters:
            self._own[key] = letters[self._world.rank]
        if key in self._outgoing:
            self._outgoing.pop(key).set_result(others)
        return sum(letter.num_bytes for letter in others.values())

    def receive(self, key: CallKey) -> dict[int, TensorMessage]:
        due = self._incoming.pop(key, None)
        letters = due.result(PATIENCE.total_seconds()) if due is not None else {}
        for letter in letters.values():
            for work in letter.works:
                work.wait(PATIENCE)
        if key in self._own:
            letters[self._world.rank] = self._own.pop(key)
        return dict(sorted(letters.items()))

    def finish(self) -> None:
        for future in self._incoming.values():
            future.result(PATIENCE.total_seconds())
        self._incoming.clear()

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _exchange(
        self, due: Expected, stamp: list[int], outgoing: Future[Mapping[int, TensorMessage]]
    ) -> dict[int, TensorMessage]:
        """Heads both ways, then parts both ways. Runs in the line's thread."""
        letters = outgoing.result(PATIENCE.total_seconds()) if due.targets else {}
        if self._link is not None and letters:
            time.sleep(self._link.seconds(sum(letter.num_bytes for letter in letters.values())))
        try:
            heads = {rank: torch.empty(_HEAD, dtype=torch.int64) for rank in due.sources}
            works: list[dist.Work | None] = [
                dist.irecv(head, rank, self._groups.gloo, self._tag(0))
                for rank, head in heads.items()
            ]
            for rank, letter in letters.items():
                head = torch.tensor([*stamp, *_describe(letter)], dtype=torch.int64)
                works.append(dist.isend(head, rank, self._groups.gloo, self._tag(0)))
            _finish(works)
            arriving = {
                rank: self._open(rank, head.tolist(), stamp) for rank, head in heads.items()
            }
            return self._carry(letters, arriving)
        except RuntimeError as error:
            if isinstance(error, (LaunchError, PeerError)):
                raise
            peers = sorted({*letters, *due.sources})
            raise PeerError(
                f"worker {self._world.rank} lost {self._message.value} of {in_words(due.key, self._mail.names)} with "
                f"workers {peers}: {error}"
            ) from error

    def _carry(
        self, letters: Mapping[int, TensorMessage], arriving: dict[int, TensorMessage]
    ) -> dict[int, TensorMessage]:
        """The parts: inside an island by the native library, between islands through host
        memory."""
        native: list[dist.P2POp] = []
        works: list[dist.Work | None] = []
        landing: list[tuple[Tensor, Tensor]] = []
        sides = (dist.irecv, arriving), (dist.isend, letters)
        parts = [
            (how, r, n, p)
            for how, side in sides
            for r, letter in side.items()
            for n, p in enumerate(letter.parts)
        ]
        for how, rank, number, part in parts:
            if not part.numel():
                continue
            if rank in self._near and part.device.type != "cpu":
                native.append(dist.P2POp(how, part, rank, self._groups.native))
                continue
            host = self._world.on_host(part, copy=how is dist.isend)
            works.append(how(host, rank, self._groups.gloo, self._tag(1 + number)))
            if host is not part and how is dist.irecv:
                landing.append((host, part))
        under_way = dist.batch_isend_irecv(native) if native else []
        _finish(works)
        for host, part in landing:
            part.copy_(host)
        for letter in arriving.values():
            letter.works = (
                under_way  # they are waited for where the letter is read: on that thread's stream
            )
        return arriving

    def _open(self, rank: int, head: list[int], stamp: list[int]) -> TensorMessage:
        """Memory for a letter, by its head. Raises `LaunchError` when it is not the one that is due
        here."""
        theirs = head[: len(STAMP)]
        if theirs != stamp:
            pairs = zip(STAMP, theirs, stamp, strict=True)
            names = ", ".join(f"{name} {a} against {b}" for name, a, b in pairs if a != b)
            raise LaunchError(
                f"worker {rank} sent a letter that worker {self._world.rank} does not wait for ({self._message.value} "
                f"of {in_words((stamp[2], stamp[3]), self._mail.names)}): {names}; the two do not run the same "
                "schedule, which is a fault of dougong: please report it with both logs"
            )
        parts, rest = [], head[len(STAMP) + 1 :]
        for _ in range(head[len(STAMP)]):
            dtype, dimensions, *sizes = rest[: 2 + MOST_DIMENSIONS]
            where = "cpu" if DTYPES[dtype] == torch.int64 else self._world.member.device
            parts.append(torch.empty(sizes[:dimensions], dtype=DTYPES[dtype], device=where))
            rest = rest[2 + MOST_DIMENSIONS :]
        return TensorMessage(parts)

    def _stamp(self, key: CallKey) -> list[int]:
        return [
            self._world.member.generation,
            self._mail.step,
            *key,
            list(MessageKind).index(self._message),
        ]

    def _tag(self, place: int) -> int:
        """A number for each part of the letters of a line, the same at both ends. Letters of one
        line come in order, so one that is out of order is found by its head."""
        return list(MessageKind).index(self._message) * (MOST_PARTS + 1) + place


def _describe(letter: TensorMessage) -> list[int]:
    """A letter's parts in numbers, filled up to the length that every head has."""
    assert len(letter.parts) <= MOST_PARTS, f"{len(letter.parts)} parts in a letter"
    numbers = [len(letter.parts)]
    for part in letter.parts:
        sizes = list(part.shape)
        numbers += [
            DTYPES.index(part.dtype),
            len(sizes),
            *sizes,
            *[0] * (MOST_DIMENSIONS - len(sizes)),
        ]
    return numbers + [0] * (_HEAD - len(STAMP) - len(numbers))


def _finish(works: Sequence[dist.Work | None]) -> None:
    for work in works:
        assert work is not None, "a message within one's own group"
        work.wait(PATIENCE)
