"""How many bytes of tensors are alive, counted as operators make them and storages go."""

from __future__ import annotations

import weakref
from typing import Any

from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.jobs import make_rig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While entered: `now`, the bytes of what operators of this thread have made and is still there, whoever holds it
    (a graph, too), and their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(tensor.untyped_storage()) for tensor in _with_memory((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in _with_memory(made):
            if id(tensor.untyped_storage()) not in given:  # a view, or written in place: not made here
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = id(storage)
        if place in self._alive:
            return
        self._alive[place] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        # torch keeps a storage's Python object, and with it this number, as long as the storage itself.
        weakref.finalize(storage, self._gone, place)

    def _gone(self, place: int) -> None:
        self.now -= self._alive.pop(place)


def _with_memory(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and not value.is_meta]


def peaks_of_steps(world: World, plan: Plan, jobs: list[Job]) -> list[int]:
    """Of tensors that a step made while it ran, of each job, beside those of the step before."""
    found = []
    for job in jobs:
        rig = make_rig(job, plan, world)
        rig.stepper.gradients(1, rig.forwards(1))
        with LiveBytes() as alive:
            rig.stepper.forward_backward(2, rig.forwards(2))
        found.append(alive.peak)
        rig.stepper.close()
    return found
