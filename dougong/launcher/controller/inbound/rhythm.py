"""How often something is done that costs the more the larger the run is."""

from __future__ import annotations

_TIMES = 10
"""Its cost, so often, passes until it is done again: a tenth of a core is spent on it at most."""


class Rhythm:
    """It is done every `every_s` seconds; where that would take more than its part of the time,
    after a longer while, but never after more than `longest_s`. `due_at`: next, monotonic
    seconds."""

    def __init__(self, every_s: float, longest_s: float) -> None:
        self._every_s, self._longest_s = every_s, longest_s
        self.due_at = 0.0

    def note(self, begun_at: float, ended_at: float) -> None:
        """It was done."""
        cost_s = ended_at - begun_at
        pause_s = min(_TIMES * cost_s, self._longest_s)
        self.due_at = begun_at + max(self._every_s, pause_s)
