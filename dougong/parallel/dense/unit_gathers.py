"""Gathers each unit's tensors from their owners before a flight uses it, and lets them go when all
flights have.

All attention workers gather the same groups in the same order, whoever has how many lanes: those of
a forward one after the other, those of the backward in the opposite order. Who needs a later one
gathers all before it, and the next one is begun by then. Owners send their parts to everybody, with
nobody in between: what one worker waits for, another one has sent without having waited for
anything later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.ops.bit_sum import WRAP, bit_sums
from dougong.parallel.comm.route import Pending
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.parallel.dense.unit_tensors import UnitTensors
from dougong.parallel.plan import Plan

AHEAD = 1
"""Groups that are gathered while the one before is computed with."""
LASTING = 0
"""The group of what is there throughout; the others are the units, one later."""


@dataclass
class _Gather:
    """A group's place in the order of a pass. `left`: flights that have done with it."""

    group: int
    left: int = 0
    pending: Pending | None = None
    landings: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class UnitGathers:
    """One worker's. Collective over the attention workers: `begin`, then what its flights enter and
    leave, then `end`."""

    def __init__(self, world: World, plan: Plan, tensors: UnitTensors) -> None:
        self._world, self._tensors = world, tensors
        others = (worker.rank for worker in plan.workers if worker.lanes)
        self._others = [rank for rank in others if rank != world.rank]
        self._sums: list[tuple[list[str], Tensor]] = []
        self._is_training = False
        self._num_flights = 0
        self._order: list[_Gather] = []
        self._places: dict[tuple[int, bool], int] = {}
        self._num_begun = self._num_there = 0
        # By group that has memory: the place in the order of its gather.
        self._present: dict[int, int] = {}
        self._is_counted = True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is gathered inside is no part of the step: neither its bytes nor its sums count."""
        sums, self._is_counted = self._sums, False
        yield
        self._sums, self._is_counted = sums, True

    def begin(self, num_flights: int, is_training: bool) -> None:
        """A forward of so many flights begins, and their backward, where they are trained."""
        units = self._tensors.units
        forth = [LASTING, *range(1, len(units.units) + 1)]
        back = list(reversed(range(1, units.kept_from + 1))) if is_training else []
        self._order = [_Gather(group) for group in (*forth, *back)]
        self._places = {(group, False): place for place, group in enumerate(forth)}
        self._places |= {(group, True): place for place, group in enumerate(back, len(forth))}
        self._num_flights, self._is_training = num_flights, is_training
        self._num_begun = self._num_there = 0
        self._sums = []
        self._have(LASTING)

    def end(self) -> None:
        """All flights have come to their end. Takes part in what others gather beyond that."""
        while self._num_there < len(self._order):
            self._free_all_there()
            self._have(self._num_there)
        self._free_all_there()

    def enter(self, unit: int, is_backward: bool) -> None:
        if is_backward:
            self._turn_back()
        self._have(self._place(unit, is_backward))

    def leave(self, unit: int, is_backward: bool) -> None:
        place = self._place(unit, is_backward)
        gather = self._order[place]
        if self._is_training and not is_backward and unit >= self._tensors.units.kept_from:
            return
        gather.left += 1
        if place < self._num_there:
            self._free_if_left(gather)

    def sums(self) -> dict[str, int]:
        """Of the bits of each tensor as it came, modulo 2**64: of all gathers of the last pass
        together. Waits for the device."""
        found: dict[str, int] = {}
        for names, sums in self._sums:
            for name, value in zip(names, sums.tolist(), strict=True):
                found[name] = (found.get(name, 0) + value) % WRAP
        return found

    def _place(self, unit: int, is_backward: bool) -> int:
        """In the order; of what is not gathered again for the backward, that of the forward."""
        place = self._places.get((unit + 1, is_backward))
        return self._places[unit + 1, False] if place is None else place

    def _turn_back(self) -> None:
        """A backward begins. What no flight has entered on its way is let go now: the forward is
        done with all but the last segment."""
        for group in range(1, self._tensors.units.kept_from + 1):
            if self._present.get(group) == self._places[group, False]:
                self._free(group)

    def _have(self, place: int) -> None:
        """Until all groups up to this place are there; begin those that come next."""
        while self._num_there <= place:
            self._begin_until(self._num_there)
            gather = self._order[self._num_there]
            self._take(gather)
            self._num_there += 1
            self._free_if_left(gather)  # where no flight uses it
        self._begin_until(place + AHEAD)

    def _begin_until(self, place: int) -> None:
        while self._num_begun <= min(place, len(self._order) - 1):
            gather = self._order[self._num_begun]
            if gather.group in self._present:  # the forward has not done with it
                return
            self._present[gather.group] = self._num_begun
            self._begin(gather)
            self._num_begun += 1

    def _begin(self, gather: _Gather) -> None:
        tensors, rank = self._tensors, self._world.rank
        tensors.take_memory(gather.group)
        sends: list[Transfer] = []
        receives: list[Transfer] = []
        for number in tensors.groups[gather.group]:
            flat = tensors.buffers[number]
            for owner, part in tensors.buckets[number].parts.items():
                if owner == rank:
                    mine = flat[part].cpu()
                    sends += [Transfer(peer, mine) for peer in self._others]
                else:
                    landing = _room_on_host(flat[part])
                    gather.landings.append((landing, flat[part]))
                    receives.append(Transfer(owner, landing))
        world, what = self._world, f"dense tensors of {self._words(gather.group)}"
        if self._is_counted:
            begin = world.transfer_on_host
        else:
            begin, what = world.on_host.begin, f"{what}, step {world.step}"
        gather.pending = begin(TrafficKind.WEIGHTS, sends, receives, what)

    def _take(self, gather: _Gather) -> None:
        assert gather.pending is not None
        gather.pending.wait()
        gather.pending = None
        for landed, place in gather.landings:
            if landed.data_ptr() != place.data_ptr():
                place.copy_(landed)
        gather.landings.clear()
        self._tensors.show(gather.group)
        values = self._tensors.values(gather.group)
        if values and self._is_training and self._world.tally.is_on:
            self._sums.append((list(values), bit_sums(list(values.values()))))

    def _free_if_left(self, gather: _Gather) -> None:
        if gather.left >= self._num_flights and gather.group != LASTING:
            self._free(gather.group)

    def _free(self, group: int) -> None:
        if self._present.pop(group, None) is not None:
            self._tensors.free(group)

    def _free_all_there(self) -> None:
        """Nobody computes any more; what is on its way stays."""
        for group, place in tuple(self._present.items()):
            if place < self._num_there:
                self._free(group)

    def _words(self, group: int) -> str:
        if group == LASTING:
            return "what several modules use"
        return self._tensors.units.units[group - 1].name


def _room_on_host(place: Tensor) -> Tensor:
    """Where what belongs to a place arrives: the place itself, where it is in the machine's
    memory."""
    return place if place.device.type == "cpu" else torch.empty_like(place, device="cpu")
