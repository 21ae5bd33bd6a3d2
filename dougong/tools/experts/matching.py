"""Whose expert is whose, by the digests of their tensors. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dougong.ui.formatting import ranges

_SHOWN = 8

ExpertDigests = tuple[tuple[str, str], ...]
"""(tensor, digest), ascending."""
Digests = Mapping[int, ExpertDigests]
"""By an expert's number."""


def match_words(a: Digests, b: Digests) -> Iterator[str]:
    """What of A's experts is elsewhere in B, or nowhere, and what only B has; nothing where all are
    where they should be."""
    places = _places(b)
    moved = {}
    for number, found in a.items():
        there = places.get(found, [number])
        if number not in there:
            moved[number] = there[0]
    if moved:
        yield _order_words(moved)
    lost = [number for number, found in a.items() if found not in places]
    if lost:
        yield f"{named(lost)} of A {are(lost)} none of B's{_which_tensors(lost, a, b)}"
    known = set(a.values())
    come = [number for number in b if b[number] not in known and number not in lost]
    if come:
        yield f"{named(come)} of B {are(come)} none of A's"


def named(numbers: Sequence[int]) -> str:
    """`expert 3`, `experts 0-2, 7`."""
    return f"expert{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"


def are(numbers: Sequence[int]) -> str:
    """The verb."""
    return "are" if len(numbers) > 1 else "is"


def _places(digests: Digests) -> dict[ExpertDigests, list[int]]:
    found: dict[ExpertDigests, list[int]] = {}
    for number, its in digests.items():
        found.setdefault(its, []).append(number)
    return found


def _order_words(moved: Mapping[int, int]) -> str:
    pairs = [f"{number} is B's {place}" for number, place in moved.items()]
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    return f"experts are in another order: A's {', '.join(pairs[:_SHOWN])}{more}"


def _which_tensors(lost: Sequence[int], a: Digests, b: Digests) -> str:
    """Which differ, of the first that has a namesake."""
    namesakes = [number for number in lost if number in b]
    if not namesakes:
        return ""
    number = namesakes[0]
    theirs = dict(b[number])
    parts = [name for name, found in a[number] if theirs.get(name) != found]
    return f" (of expert {number} differ: {', '.join(parts)})"
