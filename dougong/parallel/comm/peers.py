"""Whom a worker exchanges messages of one kind with, and which way they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dougong.parallel.comm.membership import Membership


@dataclass(frozen=True)
class Sides:
    """Every sender sends to every receiver. Ranks, ascending."""

    senders: tuple[int, ...]
    receivers: tuple[int, ...]


@dataclass(frozen=True)
class PeerEnd:
    """One direction at one worker. `ranks`: those at the other end, in the order of shares.

    `there`: the places in `ranks` of those of the own island who take part in its collective, and
    `members`: their places in the island's group. `far`: (place, rank) of all that a message of
    its own goes to. `own`: the worker's own place, None where it is not among them.
    """

    ranks: tuple[int, ...]
    there: slice
    members: Sequence[int]
    far: tuple[tuple[int, int], ...]
    own: int | None

    def sizes_in_group(self, sizes: Sequence[int], group_size: int) -> list[int]:
        """The shares' sizes by member of the island's group, 0 for those that have none."""
        by_member = np.zeros(group_size, np.int64)
        by_member[self.members] = sizes[self.there]
        found: list[int] = by_member.tolist()
        return found

    def rows_there(self, sizes: Sequence[int]) -> slice:
        """Where the island's shares lie."""
        begin = sum(sizes[: self.there.start])
        return slice(begin, begin + sum(sizes[self.there]))


@dataclass(frozen=True)
class Peers:
    """Both directions at one worker: to its targets, from its sources.

    `group_size`: members of the island's group, where a collective of all of them carries what
    stays in the island; 0 where each message goes by itself. `others`: all that take part, but the
    worker itself.
    """

    targets: PeerEnd
    sources: PeerEnd
    group_size: int
    others: tuple[int, ...]

    @classmethod
    def of(cls, sides: Sides, member: Membership) -> Peers:
        """At this worker. All workers of an island decide alike whether its collective is used."""
        island, rank = _collective_of(sides, member), member.rank
        targets = sides.receivers if rank in sides.senders else ()
        sources = sides.senders if rank in sides.receivers else ()
        others = tuple(sorted({*targets, *sources, *island} - {rank}))
        return cls(_end(targets, island, rank), _end(sources, island, rank), len(island), others)

    @property
    def is_alone(self) -> bool:
        """Whether the worker exchanges nothing with anybody but itself."""
        return not self.others


def _collective_of(sides: Sides, member: Membership) -> tuple[int, ...]:
    """The island's ranks, if some of them send to others of them."""
    island = member.island_ranks
    senders = [rank for rank in sides.senders if rank in island]
    receivers = [rank for rank in sides.receivers if rank in island]
    if len({*senders, *receivers}) < 2 or not senders or not receivers:
        return ()
    is_whole = all(_is_run(side, island) for side in (sides.senders, sides.receivers))
    return island if is_whole else ()


def _is_run(side: Sequence[int], island: Sequence[int]) -> bool:
    """Whether the island's ranks stand side by side among these, so that their shares do."""
    places = [place for place, rank in enumerate(side) if rank in island]
    return places == list(range(places[0], places[-1] + 1))


def _end(ranks: tuple[int, ...], island: tuple[int, ...], own: int) -> PeerEnd:
    places = [place for place, rank in enumerate(ranks) if rank in island]
    there = slice(places[0], places[-1] + 1) if places else slice(0, 0)
    members = [island.index(ranks[place]) for place in places]
    far = []
    for place, rank in enumerate(ranks):
        if rank != own and rank not in island:
            far.append((place, rank))
    return PeerEnd(ranks, there, members, tuple(far), ranks.index(own) if own in ranks else None)
