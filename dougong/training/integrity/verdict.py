"""Whose numbers are wrong, where a step has been computed twice and the two do not agree. Pure.

Both computations have the same plan, so every message and every sum must have the same bits; only
the processes are others. The first number, in the order in which the step computes them, that is
not the same was computed from what was the same: so whoever computed it has computed it wrongly,
the first time or the second. A third and a fourth computation, by the same two, tell who where a
device errs by chance: it gives other bits from time to time. Where each sticks to its own, a third
worker is asked, if there is one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Place = tuple[int, int, str]
"""Sorts as the step computes: the stage, the number in it, and what it is, in words."""

MESSAGES, LOSSES, SUMS, GRADIENTS, UPDATE = range(5)
"""Stages."""

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Computed:
    """What one worker's part of a step came to, by place: numbers of 64 bits."""

    numbers: Mapping[Place, int]

    @property
    def digest(self) -> bytes:
        """Equal where all numbers are."""
        return hashlib.blake2b(self.encode(), digest_size=DIGEST_BYTES).digest()

    def encode(self) -> bytes:
        return json.dumps(
            [[*place, self.numbers[place]] for place in sorted(self.numbers)]
        ).encode()

    @staticmethod
    def decode(payload: bytes) -> Computed:
        return Computed({(a, b, what): value for a, b, what, value in json.loads(payload)})


@dataclass(frozen=True)
class Disagreement:
    """The first place at which two computations of a part differ. `part`: whose, by rank."""

    place: Place
    part: int


def first_disagreement(
    first: Sequence[Computed], second: Sequence[Computed]
) -> Disagreement | None:
    """Of all parts, by rank; None where they agree."""
    found = []
    for part, (one, other) in enumerate(zip(first, second, strict=True)):
        places = one.numbers.keys() | other.numbers.keys()
        differ = [p for p in places if one.numbers.get(p) != other.numbers.get(p)]
        if differ:
            place = min(differ)
            found.append((place[:2], part, place))
    if not found:
        return None
    _, part, place = min(found)
    return Disagreement(place, part)


@dataclass(frozen=True)
class Opinions:
    """Of one number: by the worker `owner`, whose part it is in, and by `other`, who has computed
    that part again; two times each. By rank; the two are the same where it is the only one."""

    owner: int
    other: int
    by_owner: Sequence[int | None]
    by_other: Sequence[int | None]


def accused(said: Opinions, third: int | None = None) -> tuple[int, ...]:
    """Who has computed it wrongly; both where that cannot be told. `third`: what it is by another
    one, asked where each of the two sticks to its own."""
    if said.owner == said.other:
        return (said.owner,)
    is_steady = len(set(said.by_owner)) == 1
    is_other_steady = len(set(said.by_other)) == 1
    if is_steady != is_other_steady:
        return (said.other,) if is_steady else (said.owner,)
    if is_steady and third == said.by_owner[0]:
        return (said.other,)
    if is_steady and third == said.by_other[0]:
        return (said.owner,)
    return said.owner, said.other
