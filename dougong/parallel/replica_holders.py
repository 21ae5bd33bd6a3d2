"""Who keeps a replica of whose state. Pure; imports no torch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from dougong.parallel.plan import Plan


def replica_holders(plan: Plan, replicas: int) -> tuple[tuple[int, ...], ...]:
    """By rank, the ranks that keep a replica of its state: `replicas` of them, or all others where
    those are fewer.

    They are on other nodes, each on one of its own, as far as there are any; and everybody keeps
    about as many.
    """
    nodes = [worker.node for worker in plan.workers]
    placing = _Placing(nodes)
    for number in range(min(replicas, len(nodes) - 1)):
        for rank in placing.ring:
            placing.add_to(rank, number)
    return tuple(tuple(found) for found in placing.holders)


Stretch = tuple[int, int]
"""Places on the ring, from the first to before the second."""


class _Placing:
    """Replicas given out so far.

    `ring`: all ranks, the workers of a node together. Whoever stands as many places further as the
    largest node has workers is on another node, unless that node is more than half of all; and it
    is somebody else for everybody, so that everybody keeps one.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        sizes = Counter(nodes)  # in the order in which they are first seen
        ends = itertools.accumulate(sizes.values())
        self._spans = {
            node: (end - size, end) for (node, size), end in zip(sizes.items(), ends, strict=True)
        }
        self.ring = sorted(range(len(nodes)), key=lambda rank: (self._spans[nodes[rank]], rank))
        self.holders: list[list[int]] = [[] for _ in nodes]
        self._nodes = nodes
        self._places = {rank: place for place, rank in enumerate(self.ring)}
        self._stride = max(sizes.values())
        self._kept = _KeptCounts(len(nodes))

    def add_to(self, owner: int, number: int) -> None:
        """One more holder for an owner, its `number`th from 0: on another node than its own, on one
        that has none of its holders yet, where fewest are kept; of equals the first along the ring
        from a stride ahead."""
        own = self.holders[owner]
        place = self._place_for(owner, number)
        own.append(self.ring[place])
        self._kept.add(place)

    def _place_for(self, owner: int, number: int) -> int:
        home = self._nodes[owner]
        known = {self._nodes[holder] for holder in self.holders[owner]}
        elsewhere = _without((0, len(self.ring)), [self._spans[node] for node in known | {home}])
        # Nobody there is better than who keeps `number`: all keep about as many.
        place = self._first(owner, elsewhere, number)
        if place is not None:
            return place
        taken = [self._places[rank] for rank in (owner, *self.holders[owner])]
        again: list[Stretch] = []
        for node in known - {home}:
            again += _without(self._spans[node], [(place, place + 1) for place in taken])
        here = _without(self._spans[home], [(place, place + 1) for place in taken])
        for stretches in (elsewhere, again, here):
            if stretches:
                least = min(self._kept.least(stretch) for stretch in stretches)
                place = self._first(owner, stretches, least)
                break
        assert place is not None, "an owner has fewer holders than there are others"
        return place

    def _first(self, owner: int, stretches: Sequence[Stretch], most: int) -> int | None:
        """The first place along the ring, from a stride ahead of an owner's, at which `most` are
        kept at most."""
        start = (self._places[owner] + self._stride) % len(self.ring)
        ahead = [(max(begin, start), end) for begin, end in sorted(stretches)]
        behind = [(begin, min(end, start)) for begin, end in sorted(stretches)]
        for stretch in (*ahead, *behind):
            place = self._kept.first(stretch, most)
            if place is not None:
                return place
        return None


def _without(stretch: Stretch, taken: Sequence[Stretch]) -> list[Stretch]:
    """What is left of a stretch; those that are taken do not overlap."""
    found, begin = [], stretch[0]
    for first, end in [*sorted(taken), (stretch[1], stretch[1])]:
        if begin < min(first, stretch[1]):
            found.append((begin, min(first, stretch[1])))
        begin = max(begin, end)
    return found


class _KeptCounts:
    """How many replicas are kept at every place of the ring, as a binary tree of the least: a look
    at a stretch takes steps by the logarithm of the number of places."""

    def __init__(self, num_places: int) -> None:
        self._width = 1 << (num_places - 1).bit_length()
        # Node i has the children 2i and 2i + 1; the places are the last ones.
        self._least = [0] * (2 * self._width)

    def add(self, place: int) -> None:
        """One more is kept there."""
        node = place + self._width
        self._least[node] += 1
        while node > 1:
            node //= 2
            self._least[node] = min(self._least[2 * node], self._least[2 * node + 1])

    def least(self, stretch: Stretch) -> int:
        return min(self._least[node] for node in self._cover(stretch))

    def first(self, stretch: Stretch, most: int) -> int | None:
        """The first place of a stretch, which may be empty, at which `most` are kept at most."""
        begin, end = stretch
        if begin < end and self._least[begin + self._width] <= most:
            return begin  # nearly always
        for node in self._cover(stretch):
            if self._least[node] <= most:
                return self._first_below(node, most)
        return None

    def _first_below(self, node: int, most: int) -> int:
        while node < self._width:
            node *= 2
            if self._least[node] > most:
                node += 1
        return node - self._width

    def _cover(self, stretch: Stretch) -> list[int]:
        """The fewest nodes of the tree that are a stretch, from left to right."""
        left, right = [], []
        begin, end = stretch[0] + self._width, stretch[1] + self._width
        while begin < end:
            if begin % 2:
                left.append(begin)
                begin += 1
            if end % 2:
                end -= 1
                right.append(end)
            begin, end = begin // 2, end // 2
        return left + right[::-1]


def wards_of(holders: Sequence[Sequence[int]], rank: int) -> list[int]:
    """The ranks whose replicas `rank` keeps."""
    return [owner for owner, of_owner in enumerate(holders) if rank in of_owner]
