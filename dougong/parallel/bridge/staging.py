"""Host memory through which chunks pass, and the copies between it and a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from dougong.accelerators.staging import host_memory
from dougong.accelerators.streams import Mark, mark
from dougong.ops.sizes import ALIGNMENT_BYTES, rounded_up


class ChunkRing:
    """A ring of host memory: what was taken first is given back first."""

    def __init__(self, memory: Tensor) -> None:
        """`memory`: uint8, of one dimension."""
        self._memory = memory
        self._taken: deque[tuple[int, int]] = deque()  # begin and end of each, oldest first

    def take(self, num_bytes: int) -> Tensor | None:
        """So many bytes, uint8; None where others must be given back first."""
        size = taken_bytes(num_bytes)
        begin = self._place(size)
        if begin is None:
            return None
        self._taken.append((begin, begin + size))
        return self._memory[begin : begin + num_bytes]

    def give_back(self) -> None:
        """What was taken first is free again."""
        self._taken.popleft()

    def _place(self, size: int) -> int | None:
        if not self._taken:
            return 0 if size <= self._memory.numel() else None
        oldest, newest = self._taken[0][0], self._taken[-1][1]
        is_whole = newest > oldest  # what is taken does not go on at the memory's beginning
        if newest + size <= (self._memory.numel() if is_whole else oldest):
            return newest
        return 0 if is_whole and size <= oldest else None


def taken_bytes(num_bytes: int) -> int:
    """What `ChunkRing.take` takes for so many: the next tensor begins at a multiple of
    `ALIGNMENT_BYTES`."""
    return rounded_up(num_bytes, ALIGNMENT_BYTES)


class Copy(ABC):
    """A copy under way."""

    @abstractmethod
    def wait(self) -> None:
        """Until it is done; neither end may be touched before."""


class Copies(ABC):
    """Copies of one direction between a device and host memory, one after another, beside all else
    that the device does."""

    @abstractmethod
    def memory(self, num_bytes: int) -> Tensor:
        """Host memory for copies, uint8 [num_bytes]."""

    @abstractmethod
    def begin(self, source: Tensor, target: Tensor, after: Mark) -> Copy:
        """Begin a copy between like tensors when `after` has come to pass."""

    @abstractmethod
    def settle(self) -> None:
        """Until all that has begun is done."""


class DeviceMemory(ABC):
    """What a bridge through host memory asks of a worker's device."""

    is_pinned: bool
    """Whether the host's part of the copies is memory that the device reads and writes by
    itself."""

    @abstractmethod
    def holds(self, tensor: Tensor) -> bool:
        """Whether this tensor lies on the device, so that the host cannot read it."""

    @abstractmethod
    def now(self) -> Mark:
        """When all that the calling thread has given to the device by now is done."""

    @abstractmethod
    def copies(self) -> Copies:
        """For copies of one direction."""


class TorchDevice(DeviceMemory):
    """A device of torch, with a stream for each direction: a copy does not queue behind the next
    micro-batch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.is_pinned = False

    def holds(self, tensor: Tensor) -> bool:
        return tensor.device.type != "cpu"

    def now(self) -> Mark:
        return mark(self._device)

    def copies(self) -> Copies:
        return _StreamCopies(self._device, self._memory)

    def _memory(self, num_bytes: int) -> Tensor:
        memory = host_memory(num_bytes, self._device)
        self.is_pinned = memory.is_pinned()
        return memory


class _StreamCopies(Copies):
    def __init__(self, device: torch.device, memory: Callable[[int], Tensor]) -> None:
        self._stream, self._memory = torch.Stream(device), memory

    def memory(self, num_bytes: int) -> Tensor:
        return self._memory(num_bytes)

    def begin(self, source: Tensor, target: Tensor, after: Mark) -> Copy:
        if after is not None:
            self._stream.wait_event(after)
        with self._stream:
            target.copy_(source, non_blocking=True)
        return _StreamCopy(moment_of(self._stream))

    def settle(self) -> None:
        self._stream.synchronize()


class _StreamCopy(Copy):
    def __init__(self, end: torch.Event) -> None:
        self._end = end

    def wait(self) -> None:
        self._end.synchronize()


def moment_of(stream: torch.Stream) -> torch.Event:
    """When all that the stream has been given by now is done. A host that waits for it sleeps."""
    event = torch.Event(stream.device, blocking=True)
    event.record(stream)
    return event
