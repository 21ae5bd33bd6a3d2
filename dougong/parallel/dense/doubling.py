"""Who hands which owners' values on to whom, until everybody has all: recursive doubling, on equal
shares the rounds of `halving` backwards, with distance 1 last.

Workers stand in places 0 .. W - 1. A round has a distance d, a power of two, the largest first.
Before it a worker has the parts of all owners whose places are its own modulo 2 d; it gets those
whose places are its own modulo d alone, from the worker whose place differs from its own in that
one bit. So each part comes to each worker once.

Where W is no power of two, that place may be beyond the last one. Then the place d below one's own
serves: modulo 2 d it is the same, and it has the same parts. A worker serves so in one round at
most, so that all send and receive about log2 W messages. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DoublingRound:
    """What one worker does in a round. `source`: who hands it the parts of the owners `coming`;
    None, nobody. `targets`: whom it hands those of `going`, which are all that it has. Owners are
    in the order in which they were given, the same on both sides."""

    source: int | None
    coming: tuple[int, ...]
    targets: tuple[int, ...]
    going: tuple[int, ...]


class Doubling:
    """The rounds of some workers."""

    def __init__(self, ranks: Collection[int]) -> None:
        """`ranks`: of all that are to have everything; owners are among them."""
        self._ranks = sorted(ranks)
        self._places = {rank: place for place, rank in enumerate(self._ranks)}
        num_bits = (len(self._ranks) - 1).bit_length()
        self.distances: tuple[int, ...] = tuple(1 << bit for bit in reversed(range(num_bits)))
        """One a round."""

    def rounds(self, owners: Sequence[int], rank: int) -> list[DoublingRound]:
        """What a worker does with the parts of these owners."""
        place = self._places[rank]
        found = []
        for distance in self.distances:
            source = self._source(place, distance)
            targets = tuple(self._ranks[target] for target in self._targets(place, distance))
            coming = self._alike(owners, place ^ distance, distance) if source is not None else ()
            going = self._alike(owners, place, distance) if targets else ()
            giver = self._ranks[source] if source is not None else None
            found.append(DoublingRound(giver, coming, targets, going))
        return found

    def handed_on(self, owner: int) -> Iterator[tuple[int, int]]:
        """(source, target) of one owner's part, in the order of time: a source is the owner, or has
        been a target before."""
        for distance in self.distances:
            have_it = range(self._places[owner] % (2 * distance), len(self._ranks), 2 * distance)
            for place in have_it:
                for target in self._targets(place, distance):
                    yield self._ranks[place], self._ranks[target]

    def crossing(self, num_bytes: Mapping[int, float]) -> dict[tuple[int, int], float]:
        """Bytes by (source, target). `num_bytes`: by owner, of its part."""
        found: dict[tuple[int, int], float] = {}
        for distance in self.distances:
            held = self._held(num_bytes, 2 * distance)
            for place, rank in enumerate(self._ranks):
                source = self._source(place, distance)
                coming = held[(place ^ distance) % (2 * distance)]
                if source is not None and coming:
                    pair = self._ranks[source], rank
                    found[pair] = found.get(pair, 0.0) + coming
        return found

    def _held(self, num_bytes: Mapping[int, float], modulus: int) -> list[float]:
        """Bytes of all owners whose places are the same modulo that, by it."""
        held = [0.0] * modulus
        for owner, of_owner in num_bytes.items():
            held[self._places[owner] % modulus] += of_owner
        return held

    def _alike(self, owners: Iterable[int], place: int, distance: int) -> tuple[int, ...]:
        """Those whose places are the same as `place`, modulo twice the distance."""
        last_bits = 2 * distance - 1
        alike = place & last_bits
        return tuple(owner for owner in owners if self._places[owner] & last_bits == alike)

    def _source(self, place: int, distance: int) -> int | None:
        """The place from which one gets something in this round."""
        opposite = place ^ distance
        if opposite < len(self._ranks):
            return opposite
        # Below 0 in the first round alone: the parts of a place that is not there.
        return place - distance if place >= distance else None

    def _targets(self, place: int, distance: int) -> list[int]:
        """The places that get something from this one: the opposite one, and one whose opposite is
        beyond the last."""
        candidates = sorted({place ^ distance, place + distance})
        there = [target for target in candidates if target < len(self._ranks)]
        return [target for target in there if self._source(target, distance) == place]
