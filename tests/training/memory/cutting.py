"""Workers with a small state that step, keep snapshots, and are cut off at a chosen moment, again and again.

A worker that is cut off ends its connections and forgets what it holds, as a process that dies; it comes back as a new
one. A second worker stands still at a moment of its own until then, so that the others may be up to a step ahead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from dougong.checkpoint.snapshot import StateTensor
from dougong.control.worker.sockets import NewSockets
from dougong.errors import PeerError
from dougong.job.fault.snapshots import Snapshots
from dougong.parallel.comm.route import Route, UnderWay
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.wait import PeerWait
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.memory.source import StateKey
from dougong.training.memory.state_memory import StateMemory
from tests.stores import store_at
from torch import Tensor

NAMES = tuple(f"t{number}" for number in range(7))
STEPPING = ("computes", "waits", "says", "decided", "updates", "updated")
"""Moments of the training thread, from a step's end to the next one's."""
SENDING = ("heads", "tables", "tensors")
"""Moments of the thread that takes a snapshot, meanwhile: before each of its messages."""
PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Place:
    """A moment of one worker. `cycle`: after so many steps of its generation."""

    rank: int
    cycle: int
    moment: str


@dataclasses.dataclass(frozen=True)
class Cut:
    """`victim` is cut off where it is; `slow` stands still at its place until then."""

    victim: Place
    slow: Place


class CutOff(Exception):
    """This worker is cut off."""


def value(group: str, name: str, step: int) -> Tensor:
    """What a tensor is after a step."""
    number = NAMES.index(name)
    seed = 1_000_003 * step + 101 * number + len(group)
    size = () if group == "step" else (3, number + 1)
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def groups_at(step: int) -> tuple[str, ...]:
    """As an optimizer: its count of updates exists from the first on."""
    return ("model", "exp_avg", "step") if step else ("model", "exp_avg")


def wants_of(plan: Plan) -> list[list[StateKey]]:
    """Everybody reads the model, and its owner all that belongs to a tensor."""
    wants = []
    for worker in plan.workers:
        own = [name for name, owner in plan.owners.items() if owner == worker.rank]
        keys = [("model", name) for name in plan.owners]
        for group in ("exp_avg", "step"):
            keys += [(group, name) for name in own]
        wants.append(keys)
    return wants


class Stage:
    """What the workers of a test share: how many cuts were made, and the furthest step that anybody has done."""

    def __init__(self, context: Any) -> None:
        self.cuts = context.Value("i", 0)
        self.furthest = context.Value("i", 0)

    def done(self, step: int) -> None:
        with self.furthest.get_lock():
            self.furthest.value = max(self.furthest.value, step)

    def await_cut(self, number: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.cuts.value <= number:
            assert time.monotonic() < deadline, f"cut {number} never came"
            time.sleep(0.001)


class CutRoute:
    """The way of snapshots, with a look at the moments between its messages."""

    def __init__(self, route: Route, look: Callable[[str], None]) -> None:
        self._route, self._look = route, look
        self._moments: Iterator[str] = iter(())

    def snapshot(self) -> None:
        """The messages of a snapshot come next."""
        self._moments = iter(SENDING)

    def begin(self, sends: Sequence[Transfer], receives: Sequence[Transfer], wait: PeerWait) -> UnderWay:
        moment = next(self._moments, None)
        if moment is not None:
            self._look(moment)
        return self._route.begin(sends, receives, wait)


class Life:
    """One worker process in one generation."""

    def __init__(self, world: World, sockets: NewSockets, stage: Stage, number: int, cut: Cut) -> None:
        self.world, self._sockets, self._stage = world, sockets, stage
        self._number, self._cut = number, cut
        self._cycle = 0
        self._tensors: dict[StateKey, Tensor] = {}
        self._route = CutRoute(world.snapshots, self.look)
        world.snapshots = self._route  # type: ignore[assignment]

    def look(self, moment: str) -> None:
        here = Place(self.world.rank, self._cycle, moment)
        if here == self._cut.victim:
            self._sockets.shut()
            self._stage.cuts.value = self._number + 1
            raise CutOff
        if here == self._cut.slow:
            self._stage.await_cut(self._number)
            raise PeerError("somebody was cut off")

    def state(self) -> Iterator[StateTensor]:
        for (group, name), tensor in self._tensors.items():
            yield StateTensor(group, name, tensor)

    def run(self, memory: StateMemory, plan: Plan, step: int) -> NoReturn:
        """Steps until somebody is cut off: CutOff for that worker, PeerError for the others."""
        own = [name for name, owner in plan.owners.items() if owner == self.world.rank]
        self._put(own, step)
        self._route.snapshot()
        memory.follow(self.world, plan, self.state, step, f"{step:032x}")
        while True:
            self._step(memory, own, step + 1)
            step += 1
            self._cycle += 1
            self._route.snapshot()
            memory.step_done(step, f"{step:032x}")

    def _step(self, memory: StateMemory, own: Sequence[str], step: int) -> None:
        self.world.begin_step(step)
        self.look("computes")
        self.look("waits")
        memory.before_update()
        self.look("says")
        self.world.barrier()
        self.look("decided")
        self._put(own[:1], step)
        self.look("updates")
        self._put(own, step)
        self._stage.done(step)
        self.look("updated")

    def _put(self, names: Sequence[str], step: int) -> None:
        """Tensors in place, as an update has it."""
        for group in groups_at(step):
            for name in names:
                self._tensors.setdefault((group, name), value(group, name, step)).copy_(value(group, name, step))


@dataclasses.dataclass(frozen=True)
class Found:
    """What a generation went on from: the step, the furthest that anybody had done before, where the tensors were, and
    the names of those that were not as they should be."""

    step: int
    furthest: int
    tiers: tuple[str, ...]
    wrong: tuple[StateKey, ...]


def live(world: World, plan: Plan, stage: Stage, port: int, cuts: Sequence[Cut]) -> list[Found]:
    """All generations of one process, each of which a cut ends; tensors have other owners in each."""
    memory = StateMemory(Snapshots())
    member, found = world.member, []
    world.leave()
    for number, cut in enumerate([*cuts, None]):
        sockets = NewSockets()
        member = dataclasses.replace(member, generation=number + 2)
        world = World.join(member, store_at(port, member.generation))
        sockets.settle()
        plan = rotated(plan)
        found.append(_restore(world, memory, plan, stage))
        if cut is None:
            break
        life = Life(world, sockets, stage, number, cut)
        try:
            life.run(memory, plan, found[-1].step)
        except CutOff:
            memory = StateMemory(Snapshots())
        except PeerError:
            stage.await_cut(number)
            sockets.shut()
            memory.leave()
        # The victim's own thread raises what its training thread never waits for.
        with contextlib.suppress(PeerError):
            world.leave()
    return found


def rotated(plan: Plan) -> Plan:
    """Everything belongs to the next worker."""
    size = len(plan.workers)
    return dataclasses.replace(plan, owners={name: (owner + 1) % size for name, owner in plan.owners.items()})


def _restore(world: World, memory: StateMemory, plan: Plan, stage: Stage) -> Found:
    wants = wants_of(plan)
    source = memory.open_state(world, lambda: wants, 0)
    furthest = stage.furthest.value
    world.barrier()
    if source is None:
        return Found(0, furthest, (), ())
    step, wrong = source.step, []
    for group, name in wants[world.rank]:
        if group in groups_at(step) and not torch.equal(source.read(group, name), value(group, name, step)):
            wrong.append((group, name))
    if world.rank == 0:
        stage.furthest.value = step
    world.barrier()
    return Found(step, furthest, tuple(sorted(source.tiers)), tuple(wrong))
