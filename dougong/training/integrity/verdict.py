"""Whose numbers are wrong, where a step has been computed twice and the two do not agree. Pure.

Both computations have the same plan, so every message and every sum must have the same bits; only
the processes are others. The first number, in the order in which the step computes them, that is
not the same was computed from what was the same: so whoever computed it has computed it wrongly,
the first time or the second. A third and a fourth computation, by the same two, tell who: a device
that errs gives other bits from time to time, or others than all the rest.
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


def accused(
    owner: int, other: int, owners: Sequence[int | None], others: Sequence[int | None]
) -> tuple[int, ...]:
    """Who has computed a number wrongly: `owner`, who came to `owners`, or `other`, who came to
    `others`, two times each; both where that cannot be told."""
    if owner == other:
        return (owner,)
    is_steady = len(set(owners)) == 1
    is_other_steady = len(set(others)) == 1
    if is_steady == is_other_steady:
        return owner, other
    return (other,) if is_steady else (owner,)
