"""A state put together from what workers hold: they tell each other, agree on the newest whole one,
and send each other what is missing. Collective; changes nothing of what they hold.

Every tensor is verified against the digest with which it was copied from its owner, by whoever is
going to use it. A copy that is damaged is dropped, and the next holder's is taken; where there is
none, the next older state is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dougong.checkpoint.manifest import MODEL_GROUP
from dougong.errors import CheckpointError
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.comm.world import World
from dougong.training.memory.holdings import (
    Fetch,
    HeldTensor,
    Holding,
    Moment,
    Offers,
    Place,
    newest_whole,
    offered,
    read_holdings,
    write_holdings,
)
from dougong.training.memory.part import as_tensor, why_damaged
from dougong.training.memory.source import StateKey, Tier

Wants = Sequence[Sequence[StateKey]]
"""By rank, the tensors that each will read; those that an optimizer has not made yet among them."""


class Shelf(Protocol):
    """A place where this process holds states."""

    def holdings(self) -> Iterable[Holding]:
        """All that it holds whole."""
        ...

    def read(self, moment: Moment, key: StateKey) -> Tensor:
        """One tensor of it, on the CPU, not to be changed. Raises `CheckpointError` where it cannot
        be read."""
        ...


Shelves = Mapping[Place, Shelf]


class MemorySource:
    """A state that workers have put together: what one of them needs of it, verified."""

    def __init__(self, offers: Offers) -> None:
        self.moment = offers.moment
        self.ledger = offers.ledger
        self.tiers: dict[str, int] = {}
        self._groups: dict[str, list[str]] = {}
        for group, name in offers.copies:
            self._groups.setdefault(group, []).append(name)
        self._tensors: dict[StateKey, Tensor] = {}

    @property
    def step(self) -> int:
        return self.moment.step

    def names(self, group: str) -> Sequence[str]:
        return self._groups.get(group, [])

    def read(self, group: str, name: str) -> Tensor:
        found = self._tensors.get((group, name))
        if found is None:
            raise CheckpointError(
                f"the snapshot of step {self.step} holds no {group} {name}; it is of another model"
            )
        return found

    def add(self, key: StateKey, tensor: Tensor, tier: Tier) -> None:
        """One verified tensor, and where it came from."""
        self._tensors[key] = tensor
        self.tiers[tier] = self.tiers.get(tier, 0) + tensor.nbytes


def open_state(
    world: World, shelves: Shelves, asks: Callable[[], Wants], least_step: int
) -> MemorySource | None:
    """The newest state, of `least_step` or later, that the workers hold together; None: they hold
    none. Collective. `asks`: what each will read, which takes long to say for all of a large run.

    Raises PeerError when a peer is lost meanwhile.
    """
    offers = offered(_gather_holdings(world, shelves), least_step)
    if not offers:
        return None
    wants = asks()
    names = _model_names(wants)
    source, missing = None, wants
    while (whole := newest_whole(offers, names)) is not None:
        if source is None or source.moment != whole.moment:
            source, missing = MemorySource(whole), wants
        fetches = whole.fetches(missing)
        damaged = _Attempt(world, shelves, whole.moment).fetch(fetches, source)
        missing = _drop_damaged(world, whole, fetches, damaged)
        if not any(missing):
            return source
    return None


def _model_names(wants: Wants) -> frozenset[str]:
    names: set[str] = set()
    for keys in wants:
        names.update(name for group, name in keys if group == MODEL_GROUP)
    return frozenset(names)


def _gather_holdings(world: World, shelves: Shelves) -> list[list[Holding]]:
    mine: list[Holding] = []
    for shelf in shelves.values():
        mine += shelf.holdings()
    payloads = world.gather_bytes(write_holdings(mine), what="what workers hold of newest states")
    return [read_holdings(payload) for payload in payloads]


def _drop_damaged(
    world: World, offers: Offers, fetches: Sequence[Fetch], damaged: Sequence[int]
) -> list[list[StateKey]]:
    """Tell everybody which fetches (by place in the list) gave damaged bytes; returns what each
    rank still lacks. Collective."""
    payloads = world.gather_bytes(json.dumps(list(damaged)).encode(), what="damaged snapshots")
    missing: list[list[StateKey]] = [[] for _ in payloads]
    for payload in payloads:
        for place in json.loads(payload):
            fetch = fetches[place]
            offers.drop(fetch.tensor.key, fetch.holder)
            missing[fetch.target].append(fetch.tensor.key)
    return missing


class _Attempt:
    """One round of sending of what belongs to a moment."""

    def __init__(self, world: World, shelves: Shelves, moment: Moment) -> None:
        self._world, self._shelves, self._moment = world, shelves, moment

    def fetch(self, fetches: Sequence[Fetch], source: MemorySource) -> list[int]:
        """Send what others take from here and take what this worker wants; the places in the list
        of what came damaged. Collective."""
        me = self._world.rank
        arriving: dict[int, Tensor] = {}
        for place, fetch in enumerate(fetches):
            if fetch.target == me:
                arriving[place] = self._own(fetch) if not fetch.crosses else _room(fetch.tensor)
        self._exchange(fetches, arriving)
        damaged = []
        for place, data in arriving.items():
            fetch = fetches[place]
            tensor = as_tensor(data, fetch.tensor.shape)
            if why_damaged(tensor, fetch.tensor):
                damaged.append(place)
            else:
                source.add(fetch.tensor.key, tensor, _tier(fetch))
        return damaged

    def _exchange(self, fetches: Sequence[Fetch], arriving: Mapping[int, Tensor]) -> None:
        sends, receives = [], []
        for place, tag in _tags(fetches):
            fetch = fetches[place]
            if fetch.source == self._world.rank:
                sends.append(Transfer(fetch.target, self._own(fetch), tag))
            elif fetch.target == self._world.rank:
                receives.append(Transfer(fetch.source, arriving[place], tag))
        for transfer in sends:
            self._world.sent.add(TrafficKind.REPLICAS, transfer.rank, transfer.num_bytes)
        what = f"snapshots of step {self._moment.step}"
        self._world.move(self._world.snapshots, sends, receives, what)

    def _own(self, fetch: Fetch) -> Tensor:
        """This worker's copy, as bytes. One that cannot be read is sent as it is not, and found to
        be damaged by whoever takes it."""
        shelf = self._shelves[fetch.holder[1]]
        try:
            tensor = shelf.read(self._moment, fetch.tensor.key)
        except CheckpointError:
            return _room(fetch.tensor).fill_(0xFF)
        return tensor.reshape(-1).view(torch.uint8)


def _tags(fetches: Sequence[Fetch]) -> Iterator[tuple[int, int]]:
    """(place in the list, tag) of everything that is sent. Both ends count alike, so a tag tells
    the messages between two ranks apart."""
    counts = Counter[tuple[int, int]]()
    for place, fetch in enumerate(fetches):
        if fetch.crosses:
            pair = (fetch.source, fetch.target)
            counts[pair] += 1
            yield place, counts[pair]


def _room(held: HeldTensor) -> Tensor:
    return torch.empty(held.shape.num_bytes, dtype=torch.uint8)


def _tier(fetch: Fetch) -> Tier:
    if fetch.holder[1] == "disk":
        return "disk"
    return "peer" if fetch.crosses else "own"
