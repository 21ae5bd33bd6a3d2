"""How a worker leaves a generation before its work is done: what ends its waits, and what must end
before its process can join the next one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

from dougong.accelerators.base import Accelerator
from dougong.control.worker.sockets import NewSockets
from dougong.control.worker_api import Control
from dougong.errors import PeerError
from dougong.parallel.comm.meeting import leave_groups
from dougong.parallel.comm.world import World
from dougong.training.memory.state_memory import StateMemory


class Departure:
    """One worker's way out of one generation, from before it joins until it is out.

    `memory`: what outlives the generation.
    """

    def __init__(self, control: Control, accelerator: Accelerator, memory: StateMemory) -> None:
        self._control, self._accelerator, self._memory = control, accelerator, memory
        self._lock = threading.Lock()
        self._sockets = NewSockets()
        self._world: World | None = None
        self._is_aborted = False
        self._frees: list[Callable[[], None]] = []
        control.at_leaving(self._free, self._leave)

    def note_joined(self, world: World) -> None:
        """The generation's process groups are made: connections from now on are somebody else's."""
        with self._lock:
            self._sockets.settle()
            self._world = world
        self.check()

    def free_by(self, free: Callable[[], None]) -> None:
        """Call this, too, to end the waits of this worker. Any thread may call it."""
        with self._lock:
            self._frees.append(free)
        self.check()

    def check(self) -> None:
        """PeerError when the generation is to be left. For a worker that waits for nobody."""
        if self._control.leave_requested:
            raise PeerError("this worker's generation has been ended")

    def _free(self) -> None:
        with self._lock:
            # Connections first: a kernel that is aborted may look as if it had ended well, and
            # nobody may hear of a result by then.
            self._sockets.shut()
            if self._world is not None:
                self._abort(self._world)
                self._world.free()
            for free in self._frees:
                free()

    def _abort(self, world: World) -> None:
        """The native library's part; once."""
        if not self._is_aborted:
            self._is_aborted = True
            self._accelerator.abort(world.native_groups)

    def _leave(self) -> int:
        self._memory.leave()
        if self._world is None:
            leave_groups()
        else:
            self._world.abandon()
        # Let go of what the generation held, on a device too, before the next one takes as much.
        self._world = None
        self._frees.clear()
        gc.collect()
        return self._memory.step
