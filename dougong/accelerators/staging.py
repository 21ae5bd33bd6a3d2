"""Copies between a device and its machine's memory, on a stream of their own and through memory
that the device copies from by itself, so that neither waits for the other at every tensor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dougong.accelerators.streams import Mark, mark, wait_for
from dougong.ops.sizes import ALIGNMENT_BYTES, rounded_up

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SLOT_BYTES = 16 << 20
"""Of each of two pieces of memory, one of which travels while the other one is read or filled."""
SLAB_BYTES = 64 << 20
"""Libraries round pinned memory up to a power of two: many tensors share one of these."""


def host_memory(num_bytes: int, device: torch.device) -> Tensor:
    """Bytes (uint8) in the machine's memory, with whatever is in them: pinned, where the device has
    such a thing and there is some left."""
    import torch

    if device.type != "cpu":
        try:
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        except (RuntimeError, NotImplementedError):
            pass  # plain memory is slower, and does
    return torch.empty(num_bytes, dtype=torch.uint8)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on the device. The host does not wait where its memory can be pinned: the
    copy lies on the current stream, and torch keeps what it reads until it is done."""
    if device.type == "cpu":
        return values
    memory = host_memory(_num_bytes(values), device).view(values.dtype).view(values.shape)
    return memory.copy_(values).to(device, non_blocking=True)


class StagingRoom:
    """Memory for a device's tensors, taken once and never given back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slab: Tensor | None = None
        self._used = 0

    def take(self, num_bytes: int) -> Tensor:
        """So many bytes, uint8."""
        if self._device.type == "cpu" or num_bytes > SLAB_BYTES:
            return host_memory(num_bytes, self._device)
        if self._slab is None or self._used + num_bytes > SLAB_BYTES:
            self._slab, self._used = host_memory(SLAB_BYTES, self._device), 0
        found = self._slab[self._used : self._used + num_bytes]
        self._used += rounded_up(num_bytes, ALIGNMENT_BYTES)
        return found


class SideStream:
    """A stream for copies beside the device's computing. On the CPU there is none, and nothing to
    wait for."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._stream = None if device.type == "cpu" else torch.Stream(device=device)

    def mark(self) -> Mark:
        """What this thread has told the device so far, for `after`."""
        return mark(self._device)

    def after(self, marked: Mark) -> None:
        """What is copied from now on comes behind that."""
        if self._stream is not None and marked is not None:
            self._stream.wait_event(marked)

    def entered(self) -> AbstractContextManager[object]:
        """Inside, this thread speaks to the stream."""
        return nullcontext() if self._stream is None else self._stream

    def event(self) -> Mark:
        """What has been told to the stream so far."""
        return None if self._stream is None else self._stream.record_event()

    def wait(self) -> None:
        """Until all copies have landed, for the host."""
        if self._stream is not None:
            self._stream.synchronize()

    def have_device_wait(self) -> None:
        """What this thread tells the device from now on comes behind the copies."""
        wait_for(self.event(), self._device)


class Staging:
    """Copies of a set of tensors in the machine's memory, which the next set takes again. For one
    thread at a time."""

    def __init__(self) -> None:
        self._memory: dict[Hashable, Tensor] = {}
        self._rooms: dict[torch.device, StagingRoom] = {}
        self._streams: dict[torch.device, SideStream] = {}
        self._being_read: list[Tensor] = []

    def copy(self, key: Hashable, value: Tensor) -> Tensor:
        """Begin to copy a tensor to its place, which is handed back: it holds the values once
        `wait` has returned. The caller reads the place of the set before no more."""
        value = value.detach()
        memory = self._place(key, value)
        stream = self._streams.setdefault(value.device, SideStream(value.device))
        stream.after(stream.mark())
        with stream.entered():
            memory.copy_(value, non_blocking=True)
        self._being_read.append(value)
        return memory

    def reserve(self, key: Hashable, value: Tensor) -> Tensor:
        """Have a place for a tensor, and its memory touched: a first copy into fresh pages takes
        several times as long as those after it."""
        return self._place(key, value).zero_()

    def wait(self) -> None:
        """Until all copies have landed; the tensors may be changed then."""
        for stream in self._streams.values():
            stream.wait()
        self._being_read.clear()

    def _place(self, key: Hashable, value: Tensor) -> Tensor:
        memory = self._memory.get(key)
        if memory is None or memory.shape != value.shape or memory.dtype != value.dtype:
            memory = self._memory[key] = self._take(value)
        return memory

    def _take(self, value: Tensor) -> Tensor:
        room = self._rooms.setdefault(value.device, StagingRoom(value.device))
        return room.take(_num_bytes(value)).view(value.dtype).view(value.shape)


@dataclass(frozen=True)
class HostPiece:
    """Bytes of the tensor of that number, from its byte `begin` on, where the host can read them
    (uint8)."""

    number: int
    begin: int
    data: Tensor


@dataclass(frozen=True)
class _SlotRange:
    """A range of the bytes of a tensor, and its place in a slot."""

    number: int
    begin: int
    end: int
    place: int


class HostLink:
    """Tensors of a device to the host and back, piece by piece. For one thread at a time."""

    def __init__(self, device: torch.device) -> None:
        self.stream = SideStream(device)
        self._device = device
        self._slots: list[Tensor] = []
        self._landed: list[torch.Event | None] = [None, None]

    def pieces(self, tensors: Sequence[Tensor], mark: torch.Event | None) -> Iterator[HostPiece]:
        """All bytes of the tensors, in their order, a piece of at most `SLOT_BYTES` at a time: it
        holds until the next one is asked for. `mark`: when the tensors are what is wanted, by
        `SideStream.mark`. Tensors on the host are given where they lie."""
        here = [tensor.device.type == "cpu" for tensor in tensors]
        if all(here):
            for number, tensor in enumerate(tensors):
                for begin in range(0, _num_bytes(tensor), SLOT_BYTES):
                    yield HostPiece(number, begin, _bytes(tensor)[begin : begin + SLOT_BYTES])
            return
        assert not any(here), "all of them on one device"
        self.stream.after(mark)
        fills = list(_fills([_num_bytes(tensor) for tensor in tensors]))
        for number, fill in enumerate(fills):
            if number == 0:
                self._fetch(tensors, fill, 0)
            if number + 1 < len(fills):
                self._fetch(tensors, fills[number + 1], (number + 1) % 2)
            yield from self._arrived(fill, number % 2)

    def send(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Give tensors of the device the values of tensors on the host, in their own precision:
        (target, source), contiguous. Once this returns the sources may be changed, and what the
        device is told next finds the new values."""
        items = list(pairs)
        self.stream.after(self.stream.mark())
        sizes = [_num_bytes(target) for target, _ in items]
        for number, fill in enumerate(_fills(sizes)):
            self._fill_and_send(items, fill, number % 2)
        self.stream.have_device_wait()

    def _fetch(self, tensors: Sequence[Tensor], fill: Sequence[_SlotRange], slot: int) -> None:
        self._free(slot)
        with self.stream.entered():
            for cut in fill:
                data = _bytes(tensors[cut.number])[cut.begin : cut.end]
                self._at(slot, cut).copy_(data, non_blocking=True)
        self._landed[slot] = self.stream.event()

    def _arrived(self, fill: Sequence[_SlotRange], slot: int) -> Iterator[HostPiece]:
        self._free(slot)
        for cut in fill:
            yield HostPiece(cut.number, cut.begin, self._at(slot, cut))

    def _fill_and_send(
        self, items: Sequence[tuple[Tensor, Tensor]], fill: Sequence[_SlotRange], slot: int
    ) -> None:
        self._free(slot)
        for cut in fill:
            target, source = items[cut.number]
            size = target.element_size()
            values = source.reshape(-1)[cut.begin // size : cut.end // size]
            # Rounded here: half the bytes travel for a model in half precision.
            self._at(slot, cut).view(target.dtype).copy_(values)
        with self.stream.entered():
            for cut in fill:
                data = _bytes(items[cut.number][0])[cut.begin : cut.end]
                data.copy_(self._at(slot, cut), non_blocking=True)
        self._landed[slot] = self.stream.event()

    def _free(self, slot: int) -> None:
        """Nothing that travels reads or writes the slot any more."""
        if not self._slots:
            self._slots = [host_memory(SLOT_BYTES, self._device) for _ in range(2)]
        landed = self._landed[slot]
        if landed is not None:
            landed.synchronize()
            self._landed[slot] = None

    def _at(self, slot: int, cut: _SlotRange) -> Tensor:
        return self._slots[slot][cut.place : cut.place + cut.end - cut.begin]


def _fills(sizes: Sequence[int]) -> Iterator[list[_SlotRange]]:
    """Ranges of tensors of so many bytes, as many as a slot holds together."""
    fill: list[_SlotRange] = []
    place = 0
    for number, size in enumerate(sizes):
        begin = 0
        while begin < size:
            if place >= SLOT_BYTES:
                yield fill
                fill, place = [], 0
            end = min(size, begin + SLOT_BYTES - place)
            fill.append(_SlotRange(number, begin, end, place))
            place += rounded_up(end - begin, ALIGNMENT_BYTES)
            begin = end
    if fill:
        yield fill


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor's bytes where they lie."""
    import torch

    return tensor.detach().view(-1).view(torch.uint8)
