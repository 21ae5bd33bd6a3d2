"""One worker's share of a state in host memory: its tensors end to end, each with its digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.accelerators.staging import HostLink
from dougong.checkpoint.disk import digest
from dougong.checkpoint.parameters import TORCH_DTYPES, kept_dtype
from dougong.checkpoint.snapshot import StateTensor
from dougong.checkpoint.tensorfile import TensorShape
from dougong.ops.bit_sum import WRAP, bit_sums
from dougong.planner.needs.snapshot_bytes import aligned
from dougong.training.memory.holdings import HeldTensor, Holding, Moment, Place
from dougong.training.memory.source import StateKey


@dataclass(frozen=True)
class Spot:
    """A tensor's place in a part."""

    group: str
    shape: TensorShape
    offset: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.shape.num_bytes

    def held(self, checksum: str) -> HeldTensor:
        """The tensor there, made with this digest."""
        return HeldTensor(self.group, self.shape, checksum)


Layout = tuple[Spot, ...]


def lay_out(tensors: Iterable[tuple[str, TensorShape]]) -> Layout:
    """Places for (group, tensor), in their order."""
    spots: list[Spot] = []
    end = 0
    for group, shape in tensors:
        spots.append(Spot(group, shape, end))
        end += aligned(shape.num_bytes)
    return tuple(spots)


def layout_of(state: Iterable[StateTensor]) -> Layout:
    """Places for a worker's state, each tensor in its own dtype."""
    shapes = []
    for item in state:
        shape = TensorShape(item.name, kept_dtype(item.tensor.dtype), tuple(item.tensor.shape))
        shapes.append((item.group, shape))
    return lay_out(shapes)


def num_bytes_of(layout: Layout) -> int:
    """The memory that a part of this layout takes."""
    return aligned(layout[-1].end) if layout else 0


class StatePart:
    """A share of the state at one moment. Its bytes may be read when it is whole, and are then
    changed by nobody."""

    def __init__(self, moment: Moment, ledger: str | None, layout: Layout, memory: Tensor) -> None:
        """`memory`: uint8, as many as the layout takes, on the CPU."""
        self.moment = moment
        self.ledger = ledger
        self.layout = layout
        self.memory = memory
        self.is_whole = False
        self._held: dict[StateKey, tuple[Spot, HeldTensor]] = {}

    def fill(
        self,
        state: Sequence[StateTensor],
        link: HostLink | None = None,
        mark: torch.Event | None = None,
    ) -> None:
        """Copy a worker's state, in the order of the layout, and take the digests. `link`, `mark`:
        of tensors on a device, as for `HostLink.pieces`. All are contiguous, and not changed
        meanwhile."""
        link = link or HostLink(torch.device("cpu"))
        for piece in link.pieces([item.tensor for item in state], mark):
            begin = self.layout[piece.number].offset + piece.begin
            self.memory[begin : begin + len(piece.data)].copy_(piece.data)
        self.seal([digest(self._bytes_at(spot)) for spot in self.layout])

    def seal(self, digests: Sequence[str]) -> None:
        """All bytes are there; `digests`: what they were when they were copied from the worker."""
        for spot, checksum in zip(self.layout, digests, strict=True):
            held = spot.held(checksum)
            self._held[held.key] = (spot, held)
        self.is_whole = True

    def differs_from(self, sums: Mapping[StateKey, int]) -> bool:
        """Whether a tensor's bits are not those of which these are the sums; one that is not among
        them is zeros."""
        wanted = [sums.get((spot.group, spot.shape.name), 0) for spot in self.layout]
        found = bit_sums([self._tensor_at(spot) for spot in self.layout]).tolist()
        return [value % WRAP for value in found] != wanted

    def bit_sum(self) -> int:
        """The sum of all of its bytes, the gaps among them."""
        return int(bit_sums([self.memory])[0]) % WRAP

    @property
    def digests(self) -> list[str]:
        """In the order of the layout."""
        return [held.digest for _, held in self._held.values()]

    def holding(self, place: Place = "memory") -> Holding:
        """What it holds, for others."""
        tensors = tuple(held for _, held in self._held.values())
        return Holding(self.moment, place, self.ledger, tensors)

    def __contains__(self, key: StateKey) -> bool:
        return key in self._held

    def tensor(self, key: StateKey) -> Tensor:
        """The tensor where it lies: not to be changed."""
        return self._tensor_at(self._held[key][0])

    def _tensor_at(self, spot: Spot) -> Tensor:
        return as_tensor(self.memory[spot.offset : spot.end], spot.shape)

    def _bytes_at(self, spot: Spot) -> memoryview:
        found: memoryview = self.memory[spot.offset : spot.end].numpy().data
        return found


def as_tensor(data: Tensor, shape: TensorShape) -> Tensor:
    """Bytes (uint8) as the tensor that they are."""
    return data.view(TORCH_DTYPES[shape.dtype]).reshape(shape.shape)


def bytes_of(tensor: Tensor) -> memoryview:
    """A contiguous tensor's bytes."""
    found: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return found


def why_damaged(tensor: Tensor, held: HeldTensor) -> str:
    """What is wrong with a tensor's bytes, in words; empty where they are those that were made."""
    actual = digest(bytes_of(tensor))
    if actual == held.digest:
        return ""
    return f"{held.group} {held.shape.name}: digest {actual}, made as {held.digest}"


class Buffers:
    """Memory that is used again: snapshot after snapshot has the same size."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, purpose: str, num_bytes: int) -> Tensor:
        """Memory of so many bytes, with whatever is in it. The caller has the same purpose's
        former one no more in use."""
        memory = self._memory.get(purpose)
        if memory is None or memory.numel() != num_bytes:
            # The former goes first: both together may be more than there is.
            self._memory.pop(purpose, None)
            memory = self._memory[purpose] = _room(num_bytes)
        return memory

    def forget(self, purpose: str) -> None:
        """Somebody may still write into it: it is not used again."""
        self._memory.pop(purpose, None)


def _room(num_bytes: int) -> Tensor:
    try:
        return torch.empty(num_bytes, dtype=torch.uint8)
    except RuntimeError as error:
        raise MemoryError(
            f"no memory for {num_bytes} bytes of a snapshot ({error}); set "
            "fault.snapshots.replicas: 0, or switch snapshots off with fault.snapshots.every: 0"
        ) from error
