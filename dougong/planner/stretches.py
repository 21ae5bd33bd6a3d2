"""Numbers that follow one another. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def stretches(indices: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first index, first number, length) of the stretches in which both go up by one."""
    found: list[tuple[int, int, int]] = []
    for index, number in zip(indices, numbers, strict=True):
        if found:
            first, first_number, count = found[-1]
            if (index, number) == (first + count, first_number + count):
                found[-1] = (first, first_number, count + 1)
                continue
        found.append((index, number, 1))
    return found
