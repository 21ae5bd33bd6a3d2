"""The rows of a worker's last steps, for the case that the one who tells them is lost before the
controller has heard of them.

Every worker makes every row, since all know the same of a step, and one tells it. The state after a
step may be whole in the others' memory although that one has died before it told: then the next
generation goes on behind a step of which there is no row. So each who lives offers what it has made
of the steps that the controller has not heard of, and the controller takes one row for each.
"""

from __future__ import annotations

from typing import Any

from dougong.control.worker_api import Kept
from dougong.job.schema import Job

MOST_ROWS = 256
"""A controller that does not hear one worker gives it up before the others have done more steps,
but for very short ones."""


class KeptRows:
    """One for the life of a process, over all its generations."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    @staticmethod
    def of(kept: Kept) -> KeptRows:
        """Those of a process."""
        rows = kept.get(KeptRows) or KeptRows()
        kept.keep(rows)
        return rows

    def keep(self, generation: int, row: dict[str, Any]) -> None:
        """The row of a step that is done, or what more is known of it."""
        self._rows[row["step"]] = {"generation": generation, **row}
        while len(self._rows) > MOST_ROWS:
            del self._rows[min(self._rows)]

    def begin(self, recorded: int, step: int) -> tuple[dict[str, Any], ...]:
        """A generation goes on from `step`, and the controller has heard of those up to `recorded`:
        the rows between. All others are of no account any more."""
        self._rows = {s: row for s, row in self._rows.items() if recorded < s <= step}
        return tuple(self._rows[number] for number in sorted(self._rows))


def lacks_validation(job: Job, recorded: int, step: int) -> bool:
    """Whether validation was due after `step`, and the controller, which has heard of the steps up
    to `recorded`, has not heard of that: a step's row is told behind its validation."""
    validation = job.data.validation
    if validation is None or recorded >= step:
        return False
    return step == job.steps or (validation.every > 0 and step % validation.every == 0)
