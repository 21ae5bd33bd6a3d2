"""A device in host memory whose copies are not there before somebody has waited for them, and a worker's end of a
bridge to it. Between two of them everything is real but the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from dougong.accelerators.streams import Mark
from dougong.parallel.bridge.base import Opening
from dougong.parallel.bridge.chunks import ChunkRule
from dougong.parallel.bridge.host_end import HostEnd
from dougong.parallel.bridge.staging import Copies, Copy, DeviceMemory
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from torch import Tensor

RULE = ChunkRule(parts=4, least_bytes=1024, most_bytes=4096, num_connections=2)


class LateCopy(Copy):
    """Done by `do`."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def wait(self) -> None:
        self._do()


class LateCopies(Copies):
    """Every copy is made when it, or a later one, is waited for."""

    def __init__(self) -> None:
        self._begun: deque[tuple[Tensor, Tensor]] = deque()
        self._num_begun = self._num_done = 0

    def memory(self, num_bytes: int) -> Tensor:
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def begin(self, source: Tensor, target: Tensor, after: Mark) -> Copy:
        self._begun.append((source, target))
        self._num_begun += 1
        number = self._num_begun
        return LateCopy(lambda: self._do(number))

    def settle(self) -> None:
        self._do(self._num_begun)

    def _do(self, number: int) -> None:
        while self._num_done < number:
            source, target = self._begun.popleft()
            target.copy_(source)
            self._num_done += 1


class LateDevice(DeviceMemory):
    """All tensors but whole numbers lie on it."""

    is_pinned = True

    def holds(self, tensor: Tensor) -> bool:
        return tensor.dtype != torch.int64

    def now(self) -> Mark:
        return None

    def copies(self) -> Copies:
        return LateCopies()


Groups = tuple[dist.ProcessGroup, ...]


def connect(world: World) -> Groups:
    """Collective."""
    return tuple(dist.new_group(list(range(world.size)), backend="gloo") for _ in range(RULE.num_connections))


def open_end(world: World, groups: Groups) -> HostEnd:
    """Room for six chunks of 4 KiB in each direction."""
    opening = Opening(world.member, tuple(range(world.size)), "tests", None, groups, world.make_thread)
    return HostEnd(opening, RULE, LateDevice())


def cross(world: World, end: HostEnd, sends: Sequence[Transfer], receives: Sequence[Transfer]) -> None:
    peers = sorted({transfer.rank for transfer in (*sends, *receives)})
    wait = PeerWait(world.member, peers, "a crossing")
    work = end.begin(sends, receives, wait)
    with wait:
        work.wait(wait)
