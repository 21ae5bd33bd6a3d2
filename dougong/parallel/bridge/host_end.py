"""The bridge that goes everywhere: through host memory, and over gloo, in chunks.

What lies on a device is copied to pinned memory chunk by chunk; a chunk is sent while the next one
is copied, and at the other end copied to the device while the next one is on the wire. What lies in
host memory is cut alike, so that the two ends agree, and leaves from where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch.distributed as dist

from dougong.accelerators.streams import Mark
from dougong.parallel.bridge.base import BridgeEnd, BridgeWork, Opening
from dougong.parallel.bridge.chunks import Chunk, ChunkRule, arriving, leaving
from dougong.parallel.bridge.pipeline import IncomingChunks, OutgoingChunks
from dougong.parallel.bridge.staging import DeviceMemory, TorchDevice
from dougong.parallel.comm.threads import MessageThread, Waits
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait, RankedWork

NUM_ROOMS = 6
"""So many of the largest chunks have room in host memory, in each direction."""


class HostEnd(BridgeEnd):
    """What is under way is waited for in the order in which it began, in one thread.

    What it needs for a device (a thread, streams, pinned memory) it makes when the first tensor
    comes that lies on one.
    """

    def __init__(
        self, opening: Opening, rule: ChunkRule | None = None, device: DeviceMemory | None = None
    ) -> None:
        """`device`: where tensors lie that the host cannot read; None: this member's."""
        self._opening = opening
        self._rule = rule or ChunkRule(num_connections=max(1, len(opening.connections)))
        self._device = device or TorchDevice(opening.member.device)
        self._sender = opening.make_thread(f"sends-{opening.purpose.replace(' ', '-')}")
        self._pipelines: _Pipelines | None = None

    def begin(
        self, sends: Sequence[Transfer], receives: Sequence[Transfer], wait: PeerWait
    ) -> BridgeWork:
        rank, size = self._opening.member.rank, self._opening.member.size
        coming = self._split(arriving(self._rule, receives, rank, size))
        going = self._split(leaving(self._rule, sends, rank, size))
        # In host memory no chunk waits for room: all are under way at once, and receives before any
        # send, so that two workers who send to each other do not wait in a ring.
        works = [self._begin(dist.irecv, chunk, wait) for chunk in coming.direct]
        works += [self._begin(dist.isend, chunk, wait) for chunk in going.direct]
        if not coming.staged and not going.staged:
            return _DirectWork(works)
        if self._pipelines is None:
            self._pipelines = self._new_pipelines()
        return _StagedWork(self._pipelines, coming.staged, going.staged, self._device.now(), works)

    def _new_pipelines(self) -> _Pipelines:
        connections, device = self._opening.connections, self._device
        room = NUM_ROOMS * self._rule.most_bytes
        return _Pipelines(
            OutgoingChunks(connections, device.copies(), room),
            IncomingChunks(connections, device.copies(), room),
            self._sender,
            self._opening.member.waits,
        )

    def _split(self, chunks: Sequence[Chunk]) -> _Split:
        split = _Split()
        for chunk in chunks:
            is_staged = self._device.holds(chunk.transfer.tensor)
            (split.staged if is_staged else split.direct).append(chunk)
        return split

    def _begin(
        self, call: Callable[..., dist.Work | None], chunk: Chunk, wait: PeerWait
    ) -> RankedWork:
        transfer = chunk.transfer
        group = self._opening.connections[chunk.connection]
        with wait.of([transfer.rank]):
            work = call(chunk.tensor, transfer.rank, group, transfer.tag)
        assert work is not None, "a message within one's own group"
        return transfer.rank, work

    def facts(self) -> str:
        rule, kind = self._rule, "pinned" if self._device.is_pinned else "plain"
        least, most = rule.least_bytes >> 10, rule.most_bytes >> 10
        connections = f"{rule.num_connections} connections of gloo"
        return f"{connections}, chunks of {least} to {most} KiB in {kind} memory"

    def abort(self) -> None:
        """Whoever waits here waits for gloo, whose connections end with the generation."""

    def close(self) -> None:
        self._pipelines = None


@dataclass
class _Split:
    """Chunks that pass through host memory, and those that lie there."""

    staged: list[Chunk] = field(default_factory=list)
    direct: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True)
class _Pipelines:
    """Both directions of a device's traffic. `sender`: sends while the thread that waits
    receives; `waits`: the generation's."""

    outgoing: OutgoingChunks
    incoming: IncomingChunks
    sender: MessageThread
    waits: Waits

    def settle(self) -> None:
        """Until no copy is under way."""
        self.outgoing.copies.settle()
        self.incoming.copies.settle()


@dataclass(frozen=True)
class _DirectWork(BridgeWork):
    """Between host memory and host memory."""

    works: Sequence[RankedWork]

    def wait(self, wait: PeerWait) -> None:
        wait.for_works(self.works)


@dataclass(frozen=True)
class _StagedWork(BridgeWork):
    """From or to a device, at least in part. `now`: from when on its tensors may be used."""

    pipelines: _Pipelines
    coming: Sequence[Chunk]
    going: Sequence[Chunk]
    now: Mark
    works: Sequence[RankedWork]

    def wait(self, wait: PeerWait) -> None:
        try:
            if self.pipelines.outgoing.has_room_for(self.going):
                self._in_this_thread(wait)
            else:
                self._in_two_threads(wait)
            wait.for_works(self.works)
        except BaseException:
            self.pipelines.settle()  # else memory would be free that a copy still reads or writes
            raise

    def _in_this_thread(self, wait: PeerWait) -> None:
        """All that leaves has room at once, so that it is on its way before a peer is waited for: a
        second thread would cost more than it saves."""
        outgoing = self.pipelines.outgoing
        outgoing.begin(self.going, self.now, wait)
        self.pipelines.incoming.run(self.coming, self.now, wait)
        outgoing.finish(wait)

    def _in_two_threads(self, wait: PeerWait) -> None:
        sent = self.pipelines.sender.submit(self._send, wait.anew())
        sent.add_done_callback(self._look_at)
        self.pipelines.incoming.run(self.coming, self.now, wait)
        wait.for_future(sent)

    def _look_at(self, sent: Future[None]) -> None:
        """Where this worker itself cannot send (its device has failed), its other threads need not
        wait for peers who may wait for it."""
        error = None if sent.cancelled() else sent.exception()
        if error is not None:
            self.pipelines.waits.end(error)

    def _send(self, wait: PeerWait) -> None:
        outgoing = self.pipelines.outgoing
        with wait:
            outgoing.begin(self.going, self.now, wait)
            outgoing.finish(wait)
