"""A bridge between two vendors as a package would offer it: from device to device, past dougong's own host memory and
gloo. The direct path is not there, as the devices are not: bytes go over sockets of its own.

Each worker listens, and has a connection to each peer for what it sends there.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dougong.parallel.bridge.base import Bridge, BridgeEnd, BridgeWork, Opening

if TYPE_CHECKING:
    import torch
    from dougong.parallel.comm.transfer import Transfer
    from dougong.parallel.comm.wait import PeerWait

HEAD = struct.Struct("<iqq")  # sender, tag, bytes


class DirectBridge(Bridge):
    """Between simulated devices of the two vendors alone."""

    name: ClassVar[str] = "direct"

    def joins(self, one: str, other: str) -> bool:
        return {one, other} <= {"sima", "simb"}

    def open(self, opening: Opening) -> BridgeEnd:
        return DirectEnd(opening)


class DirectEnd(BridgeEnd):
    """Its thread sends; who waits receives."""

    def __init__(self, opening: Opening) -> None:
        assert opening.store is not None
        member = opening.member
        self.rank = member.rank
        self.num_bytes = 0
        self._sender = opening.make_thread(f"direct-{opening.purpose}")
        self._listener = socket.create_server((member.address, 0))
        self._listener.settimeout(member.deadlines.message_s)
        opening.store.set(str(self.rank), f"{member.address}:{self._listener.getsockname()[1]}")
        peers = [rank for rank in opening.ranks if rank != self.rank]
        self._to: dict[int, socket.socket] = {}
        for peer in peers:
            host, _, port = opening.store.get(str(peer)).decode().rpartition(":")
            self._to[peer] = socket.create_connection((host, int(port)), member.deadlines.message_s)
            self._to[peer].sendall(HEAD.pack(self.rank, 0, 0))
        self.from_peer: dict[int, socket.socket] = {}
        for _ in peers:
            line, _ = self._listener.accept()
            sender, _, _ = HEAD.unpack(read(line, HEAD.size))
            self.from_peer[sender] = line
        self.early: dict[tuple[int, int], deque[bytes]] = {}

    def begin(self, sends: Sequence[Transfer], receives: Sequence[Transfer], wait: PeerWait) -> BridgeWork:
        import torch

        here = [transfer.tensor.device for transfer in (*sends, *receives) if transfer.tensor.device.type != "cpu"]
        now = torch.accelerator.current_stream(here[0]).record_event() if here else None
        return DirectWork(self, receives, now, self._sender.submit(self._send, sends, now))

    def _send(self, sends: Sequence[Transfer], now: torch.Event | None) -> None:
        if now is not None:
            now.synchronize()
        for transfer in sends:
            payload = bytes_of(transfer.tensor.cpu())
            self._to[transfer.rank].sendall(HEAD.pack(self.rank, transfer.tag, len(payload)) + payload)
            self.num_bytes += len(payload)

    def facts(self) -> str:
        return f"sockets, {self.num_bytes} bytes from {self.rank} so far"

    def abort(self) -> None:
        for line in (*self._to.values(), *self.from_peer.values()):
            with contextlib.suppress(OSError):  # gone already
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for line in (*self._to.values(), *self.from_peer.values(), self._listener):
            line.close()


class DirectWork(BridgeWork):
    """What is to be received, and what is being sent."""

    def __init__(self, end: DirectEnd, receives: Sequence[Transfer], now: object, sent: object) -> None:
        self._end, self._receives, self._now, self._sent = end, receives, now, sent

    def wait(self, wait: PeerWait) -> None:
        import torch

        for transfer in self._receives:
            wait.of([transfer.rank])
            payload = self._next(transfer.rank, transfer.tag, wait.left_s)
            values = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            transfer.tensor.view(-1).view(torch.uint8).copy_(values)
        if torch.accelerator.is_available():
            torch.accelerator.current_stream().synchronize()
        wait.for_future(self._sent)  # type: ignore[arg-type]

    def _next(self, peer: int, tag: int, left_s: float) -> bytes:
        """The next message with this tag; others are kept until they are asked for."""
        line, early = self._end.from_peer[peer], self._end.early
        try:
            line.settimeout(max(0.001, left_s))
            while not early.get((peer, tag)):
                _, found, size = HEAD.unpack(read(line, HEAD.size))
                early.setdefault((peer, found), deque()).append(read(line, size))
        except OSError as error:
            raise RuntimeError(f"bridge direct: {error}") from error
        return early[peer, tag].popleft()


def bytes_of(tensor: torch.Tensor) -> bytes:
    import torch

    return tensor.view(-1).view(torch.uint8).numpy().tobytes()


def read(line: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        more = line.recv(min(1 << 20, size - len(found)))
        if not more:
            raise ConnectionError("the peer's connection ended")
        found += more
    return bytes(found)
