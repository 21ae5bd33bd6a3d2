"""What a person is told once of what comes in, and what stops nothing. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remarks:
    """`notes`: what is as it should be and good to know; `warnings`: what may be a mistake."""

    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __add__(self, other: Remarks) -> Remarks:
        return Remarks(self.notes + other.notes, self.warnings + other.warnings)


NOTHING = Remarks()
"""Where there is nothing to say."""
