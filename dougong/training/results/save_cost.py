"""What saves cost a worker, for the rows of its steps."""

from __future__ import annotations


class SaveCost:
    """Counts from row to row."""

    def __init__(self) -> None:
        self._held_s = 0.0
        self._written_s = 0.0

    def held(self, seconds: float) -> None:
        """A save has held up training for so long."""
        self._held_s += seconds

    def keys(self, step_s: float, written_s: float) -> dict[str, float]:
        """Of the next row: `save_s` and `write_s`, where they are not zero. `step_s`: how long its
        step took; `written_s`: for how long something has been written, all in all."""
        found = {"save_s": self._held_s, "write_s": min(written_s - self._written_s, step_s)}
        self._held_s, self._written_s = 0.0, written_s
        return {key: seconds for key, seconds in found.items() if seconds > 0.0}
