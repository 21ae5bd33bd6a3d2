"""Who keeps a replica of whose state. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


class _Placing:
    """Replicas given out so far.

    `ring`: all ranks, the workers of a node together. Whoever stands as many places further as the
    largest node has workers is on another node, unless that node is more than half of all; and it
    is somebody else for everybody, so that everybody keeps one.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        first = {node: rank for rank, node in reversed(list(enumerate(nodes)))}
        self.ring = sorted(range(len(nodes)), key=lambda rank: (first[nodes[rank]], rank))
        self.holders: list[list[int]] = [[] for _ in nodes]
        self._nodes = nodes
        self._places = {rank: place for place, rank in enumerate(self.ring)}
        self._stride = max(nodes.count(node) for node in first)
        self._num_kept = [0] * len(nodes)

    def add_to(self, owner: int, number: int) -> None:
        """One more holder for an owner, its `number`th from 0."""
        own = self.holders[owner]
        known = {self._nodes[holder] for holder in own}
        best, least = owner, (True, True, len(self.ring) + 1)
        for rank in self._others(owner):
            node = self._nodes[rank]
            cost = (node == self._nodes[owner], node in known, self._num_kept[rank])
            if rank not in own and cost < least:
                best, least = rank, cost
            if least <= (False, False, number):
                break  # nobody is better: all keep about as many
        own.append(best)
        self._num_kept[best] += 1

    def _others(self, owner: int) -> Iterator[int]:
        """Everybody else along the ring, from a stride ahead."""
        start = self._places[owner] + self._stride
        for place in range(start, start + len(self.ring)):
            rank = self.ring[place % len(self.ring)]
            if rank != owner:
                yield rank


def wards_of(holders: Sequence[Sequence[int]], rank: int) -> list[int]:
    """The ranks whose replicas `rank` keeps."""
    return [owner for owner, of_owner in enumerate(holders) if rank in of_owner]
