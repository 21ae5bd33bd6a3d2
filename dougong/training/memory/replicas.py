"""Replicas on their way: every worker sends its newest part to those who keep it, and takes those
that it keeps itself. Runs in a thread, beside the next step's computation.

A part is three messages to each holder, all between all at the same time: a head, of fixed size;
the table of its tensors, where that is not the one sent before; the tensors and their digests.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.checkpoint.tensorfile import TensorShape
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.replica_holders import wards_of
from dougong.training.memory.holdings import Moment
from dougong.training.memory.part import Layout, StatePart, lay_out, num_bytes_of

DIGEST_BYTES = 16
_HEAD = struct.Struct(f"<4qQ??{DIGEST_BYTES}s")
HEAD_BYTES = _HEAD.size

Room = Callable[[int, int], Tensor]
"""room(owner, bytes): memory for that owner's replica."""


@dataclass(frozen=True)
class _Head:
    """What comes next. `table_bytes` 0: the table is the one before; `bit_sum`: of the part's
    bytes; `is_whole`: they are the state that was to be copied."""

    moment: Moment
    table_bytes: int
    num_tensors: int
    bit_sum: int
    is_whole: bool
    ledger: str | None

    def pack(self) -> bytes:
        ledger = bytes.fromhex(self.ledger or "")
        step, generation = self.moment.step, self.moment.generation
        numbers = (step, generation, self.table_bytes, self.num_tensors, self.bit_sum)
        return _HEAD.pack(*numbers, self.is_whole, self.ledger is not None, ledger)

    @staticmethod
    def unpack(data: bytes) -> _Head:
        step, generation, *numbers, is_whole, has_ledger, ledger = _HEAD.unpack(data)
        table_bytes, num_tensors, bit_sum = numbers
        known = ledger.hex() if has_ledger else None
        return _Head(Moment(step, generation), table_bytes, num_tensors, bit_sum, is_whole, known)


class ReplicaExchange:
    """One worker's end of it, for one generation. All its workers exchange equally often."""

    def __init__(self, world: World, holders: Sequence[Sequence[int]]) -> None:
        """`holders`: by rank, who keeps a replica of whose part. `damaged`: the owners of whom the
        last exchange has brought what they have not sent."""
        self._world = world
        self.holders = tuple(holders[world.rank])
        self.wards = tuple(wards_of(holders, world.rank))
        self._sent_layout: Layout | None = None
        self._layouts: dict[int, Layout] = {}
        self.damaged: tuple[int, ...] = ()

    @property
    def peers(self) -> list[int]:
        """With whom it exchanges."""
        return sorted({*self.holders, *self.wards})

    def exchange(self, part: StatePart, room: Room) -> dict[int, StatePart]:
        """Send a part to its holders, and take those that are kept here, by owner. They are whole
        where their owners' are, and what came is what was sent.

        Raises PeerError when a peer is lost, or when not all are there within `message_s`.
        """
        if not self.peers:
            return {}
        step = part.moment.step
        wait = PeerWait(self._world.member, self.peers, f"snapshots of step {step}")
        heads = self._exchange_heads(part, wait)
        self._exchange_tables(part, heads, wait)
        return self._exchange_tensors(part, heads, room, wait)

    def count(self, part: StatePart) -> None:
        """Take down what the holders were sent of it; a table is no step's."""
        for holder in self.holders:
            for num_bytes in (HEAD_BYTES, part.memory.numel(), DIGEST_BYTES * len(part.layout)):
                self._world.sent.add(TrafficKind.REPLICAS, holder, num_bytes)

    def _exchange_heads(self, part: StatePart, wait: PeerWait) -> dict[int, _Head]:
        table = self._table(part)
        numbers = (len(table), len(part.layout), part.bit_sum())
        head = _Head(part.moment, *numbers, part.is_whole, part.ledger)
        landings = {owner: _room(HEAD_BYTES) for owner in self.wards}
        self._exchange_all([_as_tensor(head.pack())], {o: [t] for o, t in landings.items()}, wait)
        return {owner: _Head.unpack(_as_bytes(landing)) for owner, landing in landings.items()}

    def _exchange_tables(self, part: StatePart, heads: Mapping[int, _Head], wait: PeerWait) -> None:
        landings = {owner: _room(head.table_bytes) for owner, head in heads.items()}
        sent = [_as_tensor(self._table(part))]
        self._exchange_all(sent, {owner: [t] for owner, t in landings.items()}, wait)
        self._sent_layout = part.layout
        for owner, landing in landings.items():
            if landing.numel():
                self._layouts[owner] = _read_table(_as_bytes(landing))

    def _exchange_tensors(
        self, part: StatePart, heads: Mapping[int, _Head], room: Room, wait: PeerWait
    ) -> dict[int, StatePart]:
        parts = {}
        landings = {}
        for owner, head in heads.items():
            layout = self._layouts[owner]
            memory = room(owner, num_bytes_of(layout))
            parts[owner] = StatePart(head.moment, head.ledger, layout, memory)
            landings[owner] = [memory, _room(DIGEST_BYTES * head.num_tensors)]
        digests = _as_tensor(bytes.fromhex("".join(part.digests)))
        self._exchange_all([part.memory, digests], landings, wait)
        damaged = []
        for owner, (_, checksums) in landings.items():
            if parts[owner].bit_sum() != heads[owner].bit_sum:
                damaged.append(owner)
            elif heads[owner].is_whole:
                parts[owner].seal(_split(_as_bytes(checksums)))
        self.damaged = tuple(damaged)
        return parts

    def _exchange_all(
        self, sent: Sequence[Tensor], landings: Mapping[int, Sequence[Tensor]], wait: PeerWait
    ) -> None:
        """Send the same to all holders, and fill what is to come from every owner."""
        sends, receives = [], []
        for tag, tensor in enumerate(sent):
            sends += [Transfer(holder, tensor, tag) for holder in self.holders]
        for owner, tensors in landings.items():
            receives += [Transfer(owner, tensor, tag) for tag, tensor in enumerate(tensors)]
        under_way = self._world.snapshots.begin(sends, receives, wait.of(self.peers))
        with wait:
            under_way.wait_for_host(wait)

    def _table(self, part: StatePart) -> bytes:
        """Nothing where the holders know it. Names and shapes are the same from step to step, but
        for what an optimizer begins to keep with a tensor's first update."""
        if part.layout == self._sent_layout:
            return b""
        rows = []
        for spot in part.layout:
            rows.append([spot.group, spot.shape.name, spot.shape.dtype, list(spot.shape.shape)])
        return json.dumps(rows, separators=(",", ":")).encode()


def replica_bytes(num_bytes: int, num_tensors: int) -> int:
    """What a holder is sent of a part of so many bytes, but for the table."""
    return HEAD_BYTES + num_bytes + DIGEST_BYTES * num_tensors


def _read_table(data: bytes) -> Layout:
    shapes = []
    for group, name, dtype, shape in json.loads(data):
        shapes.append((group, TensorShape(name, dtype, tuple(shape))))
    return lay_out(shapes)


def _split(digests: bytes) -> list[str]:
    starts = range(0, len(digests), DIGEST_BYTES)
    return [digests[start : start + DIGEST_BYTES].hex() for start in starts]


def _room(num_bytes: int) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8)


def _as_tensor(data: bytes) -> Tensor:
    """torch makes none from an empty buffer."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else _room(0)


def _as_bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
