"""Chunks on their way through host memory: copied, on the wire, and copied again, all at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from dougong.accelerators.streams import Mark
from dougong.parallel.bridge.chunks import Chunk
from dougong.parallel.bridge.staging import ChunkRing, Copies, Copy, taken_bytes
from dougong.parallel.comm.wait import PeerWait

Connections = Sequence[dist.ProcessGroup]
"""gloo groups, of which a chunk takes one."""


@dataclass
class _StagedChunk:
    """A chunk and its place in host memory; the copy and the message of it that are under way."""

    chunk: Chunk
    memory: Tensor
    copy: Copy | None = None
    work: dist.Work | None = None

    def wait_for_copy(self) -> None:
        assert self.copy is not None
        self.copy.wait()

    def wait_for_peer(self, wait: PeerWait) -> None:
        assert self.work is not None, "a message within one's own group"
        wait.for_works([(self.chunk.transfer.rank, self.work)])


class OutgoingChunks:
    """What leaves a device: chunks are copied to host memory, and sent from there while the next
    ones are copied. For one thread at a time."""

    def __init__(self, connections: Connections, copies: Copies, room_bytes: int) -> None:
        """`room_bytes`: of host memory; some chunks'."""
        self._room_bytes = room_bytes
        self._connections, self.copies = connections, copies
        self._staging = ChunkRing(copies.memory(room_bytes))
        self._copied: deque[_StagedChunk] = deque()
        self._sent: deque[_StagedChunk] = deque()

    def has_room_for(self, chunks: Sequence[Chunk]) -> bool:
        """Whether `begin` would wait for no peer, where nothing is under way."""
        return sum(taken_bytes(chunk.num_bytes) for chunk in chunks) <= self._room_bytes

    def begin(self, chunks: Sequence[Chunk], now: Mark, wait: PeerWait) -> None:
        """Send them all, in this order; they may be read from `now` on. Waits for peers only where
        they have no room together."""
        for chunk in chunks:
            staged = _StagedChunk(chunk, self._room(chunk, wait))
            staged.copy = self.copies.begin(chunk.tensor, staged.memory, now)
            self._copied.append(staged)
            # While a chunk is sent the next one is copied: that much is copied ahead, and no more,
            # so that there is room for what is on the wire.
            while self._bytes_ahead() > self._room_bytes // 3:
                self._send_oldest(wait)
        while self._copied:
            self._send_oldest(wait)

    def finish(self, wait: PeerWait) -> None:
        """Until all have been sent."""
        while self._sent:
            self._free_oldest(wait)

    def _room(self, chunk: Chunk, wait: PeerWait) -> Tensor:
        room = self._staging.take(chunk.num_bytes)
        while room is None:
            self._free_oldest(wait)
            room = self._staging.take(chunk.num_bytes)
        return room

    def _bytes_ahead(self) -> int:
        return sum(staged.chunk.num_bytes for staged in self._copied)

    def _send_oldest(self, wait: PeerWait) -> None:
        staged = self._copied.popleft()
        staged.wait_for_copy()
        chunk = staged.chunk
        group, transfer = self._connections[chunk.connection], chunk.transfer
        wait.of([transfer.rank])
        staged.work = dist.isend(staged.memory, transfer.rank, group, transfer.tag)
        self._sent.append(staged)

    def _free_oldest(self, wait: PeerWait) -> None:
        if not self._sent:
            self._send_oldest(wait)
        self._sent.popleft().wait_for_peer(wait)
        self._staging.give_back()


class IncomingChunks:
    """What comes to a device: chunks arrive in host memory, and are copied from there while the
    next ones are on the wire. For one thread at a time."""

    def __init__(self, connections: Connections, copies: Copies, room_bytes: int) -> None:
        """`room_bytes`: of host memory; some chunks'."""
        self._connections, self.copies = connections, copies
        self._staging = ChunkRing(copies.memory(room_bytes))
        self._awaited: deque[_StagedChunk] = deque()
        self._landing: deque[_StagedChunk] = deque()

    def run(self, chunks: Sequence[Chunk], now: Mark, wait: PeerWait) -> None:
        """Receive them all, in this order, until the last one lies in its place, which may be
        written to from `now` on."""
        for chunk in chunks:
            self._await(_StagedChunk(chunk, self._room(chunk, now, wait)), wait)
        while self._awaited or self._landing:
            self._free_oldest(now, wait)

    def _room(self, chunk: Chunk, now: Mark, wait: PeerWait) -> Tensor:
        room = self._staging.take(chunk.num_bytes)
        while room is None:
            self._free_oldest(now, wait)
            room = self._staging.take(chunk.num_bytes)
        return room

    def _await(self, staged: _StagedChunk, wait: PeerWait) -> None:
        chunk = staged.chunk
        group, transfer = self._connections[chunk.connection], chunk.transfer
        wait.of([transfer.rank])
        staged.work = dist.irecv(staged.memory, transfer.rank, group, transfer.tag)
        self._awaited.append(staged)

    def _free_oldest(self, now: Mark, wait: PeerWait) -> None:
        # Two copies at a time: the device has the next one when the first is done.
        while self._awaited and len(self._landing) < 2:
            staged = self._awaited.popleft()
            staged.wait_for_peer(wait)
            staged.copy = self.copies.begin(staged.memory, staged.chunk.tensor, now)
            self._landing.append(staged)
        self._landing.popleft().wait_for_copy()
        self._staging.give_back()
