"""Rows that are refused, several at once. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from dougong.errors import DataError

_MOST = 20
"""Rows after which no more are looked at: the file is of another kind."""
_SHOWN = 5


@dataclass
class Faults:
    """Errors by the places of their rows, in order."""

    found: list[tuple[str, DataError]] = field(default_factory=list)

    def add(self, place: str, error: DataError) -> None:
        """Raises DataError once there are many."""
        self.found.append((place, error))
        if len(self.found) == _MOST:
            self.check("it may be that no row is good")

    def check(self, rest: str = "the other rows are good") -> None:
        """Raises DataError where there is one: the first, and the places of others."""
        if not self.found:
            return
        (_, first), *others = self.found
        if not others:
            raise first
        places = ", ".join(place for place, _ in others[: _SHOWN - 1])
        more = ", ..." if len(others) >= _SHOWN else ""
        raise DataError(
            f"{first} -- and {len(others)} more rows are refused ({places}{more}); {rest}"
        ) from first
