"""What workers hold of the run's newest states, and what follows from it: which state is whole, and
who sends what to whom. Pure.

All workers work out the same from the same holdings, so nobody has to be told.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dougong.checkpoint.manifest import MODEL_GROUP
from dougong.checkpoint.tensorfile import TensorShape
from dougong.training.memory.source import StateKey

Place = Literal["memory", "disk"]


@dataclass(frozen=True, order=True)
class Moment:
    """The state after `step` as `generation` computed it. What two generations computed of one step
    may differ where the job promises no bits, so they are never mixed."""

    step: int
    generation: int


@dataclass(frozen=True)
class HeldTensor:
    """One tensor of a state that somebody holds. `shape.name` is its logical name."""

    group: str
    shape: TensorShape
    digest: str

    @property
    def key(self) -> StateKey:
        return (self.group, self.shape.name)

    def to_json(self) -> list[Any]:
        return [self.group, self.shape.name, self.shape.dtype, list(self.shape.shape), self.digest]

    @staticmethod
    def from_json(raw: list[Any]) -> HeldTensor:
        group, name, dtype, shape, digest = raw
        return HeldTensor(group, TensorShape(name, dtype, tuple(shape)), digest)


@dataclass(frozen=True)
class Holding:
    """What one worker holds of one moment in one place. `ledger`: its digest then."""

    moment: Moment
    place: Place
    ledger: str | None
    tensors: tuple[HeldTensor, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.moment.step,
            "generation": self.moment.generation,
            "place": self.place,
            "ledger": self.ledger,
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Holding:
        tensors = tuple(HeldTensor.from_json(tensor) for tensor in raw["tensors"])
        moment = Moment(raw["step"], raw["generation"])
        return Holding(moment, raw["place"], raw["ledger"], tensors)


def write_holdings(holdings: Iterable[Holding]) -> bytes:
    """As they travel."""
    return json.dumps([holding.to_json() for holding in holdings], separators=(",", ":")).encode()


def read_holdings(data: bytes) -> list[Holding]:
    """What `write_holdings` was given."""
    return [Holding.from_json(raw) for raw in json.loads(data)]


Holder = tuple[int, Place]
"""(rank, where it holds it)."""


@dataclass(frozen=True)
class Fetch:
    """One tensor that rank `target` takes from `holder`, which may be itself."""

    tensor: HeldTensor
    holder: Holder
    target: int

    @property
    def source(self) -> int:
        return self.holder[0]

    @property
    def crosses(self) -> bool:
        """Whether it is sent."""
        return self.source != self.target


@dataclass
class Offers:
    """Everybody's holdings of one moment, less what was found to be damaged.

    `copies`: for each tensor, who holds it, and with what digest it was made.
    """

    moment: Moment
    ledger: str | None = None
    copies: dict[StateKey, dict[Holder, HeldTensor]] = field(default_factory=dict)

    def add(self, rank: int, holding: Holding) -> None:
        """What a rank holds of this moment, too."""
        self.ledger = self.ledger or holding.ledger
        for tensor in holding.tensors:
            self.copies.setdefault(tensor.key, {})[rank, holding.place] = tensor

    def drop(self, key: StateKey, holder: Holder) -> None:
        """This copy is not what it says."""
        self.copies[key].pop(holder, None)

    def is_whole(self, names: Collection[str]) -> bool:
        """Whether somebody holds each tensor of the model, and all that belongs to it.

        Whoever holds a tensor of the model has copied with it what the optimizer keeps of it: so
        what is not among the copies was not there. What is, and has lost its last copy, is missing.
        """
        if not all(self.copies.values()):
            return False
        return all(self.copies.get((MODEL_GROUP, name)) for name in names)

    def fetches(self, wants: Sequence[Iterable[StateKey]]) -> list[Fetch]:
        """Who takes what from whom. `wants`: by rank; of the optimizer's tensors, those that there
        are. Own copies come first, then memory, then disks; among equals, whoever sends least."""
        found: list[Fetch] = []
        num_bytes = [0] * len(wants)
        for target, keys in enumerate(wants):
            for key in keys:
                copies = self.copies.get(key)
                if not copies:
                    continue
                fetch = _cheapest(copies, target, num_bytes)
                found.append(fetch)
                if fetch.crosses:
                    num_bytes[fetch.source] += fetch.tensor.shape.num_bytes
        return found


def _cheapest(copies: Mapping[Holder, HeldTensor], target: int, num_bytes: Sequence[int]) -> Fetch:
    def cost(holder: Holder) -> tuple[bool, bool, int, int]:
        rank, place = holder
        return place == "disk", rank != target, num_bytes[rank], rank

    holder = min(copies, key=cost)
    return Fetch(copies[holder], holder, target)


def offered(holdings: Sequence[Sequence[Holding]], least_step: int) -> list[Offers]:
    """The moments from `least_step` on of which anybody holds something, newest first. `holdings`:
    by rank."""
    found: dict[Moment, Offers] = {}
    for rank, holding in _ranked(holdings):
        moment = holding.moment
        if moment.step >= least_step:
            found.setdefault(moment, Offers(moment)).add(rank, holding)
    return [found[moment] for moment in sorted(found, reverse=True)]


def _ranked(holdings: Sequence[Sequence[Holding]]) -> Iterator[tuple[int, Holding]]:
    for rank, of_rank in enumerate(holdings):
        yield from ((rank, holding) for holding in of_rank)


def newest_whole(offers: Sequence[Offers], names: Collection[str]) -> Offers | None:
    """The newest state that is whole; None: none is. `names`: all tensors of the model."""
    return next((of_moment for of_moment in offers if of_moment.is_whole(names)), None)
