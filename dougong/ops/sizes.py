"""Sizes in memory. Imports no torch."""

from __future__ import annotations

ALIGNMENT_BYTES = 512
"""At whose multiples devices' allocators begin."""


def rounded_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not less."""
    return -(-size // multiple) * multiple
