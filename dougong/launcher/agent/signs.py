"""Signs of life of a worker's process, as its agent sees them ten times a second.

The agent measures how long something has not changed, since it looks at the shared memory itself:
what is late on the network, or a controller that was held up, makes no worker look still.
"""

from __future__ import annotations

from dougong.control.progress import WorkerProgress, WorkerSigns

LONGEST_LOOK = 3
"""A look that comes later than after so many intervals counts as so many: whoever looks was held up
himself, as a rule together with what he looks at."""


class ProcessWatch:
    """Looks at one process again and again."""

    def __init__(self, every_s: float) -> None:
        """`every_s`: how often it is meant to look."""
        self._longest_s = LONGEST_LOOK * every_s
        self._looked_at: float | None = None
        self._before: WorkerProgress | None = None
        self._signs = WorkerSigns()

    def look(self, progress: WorkerProgress, state: str, now: float) -> WorkerSigns:
        """`state`: of the process, `now`: monotonic seconds."""
        before, signs = self._before, self._signs
        passed_s = 0.0
        if self._looked_at is not None:
            passed_s = min(now - self._looked_at, self._longest_s)
        is_alike = state == signs.state
        is_still = before is not None and progress.sequence == before.sequence
        is_silent = before is not None and 0 < progress.pulse == before.pulse
        self._signs = WorkerSigns(
            state,
            signs.state_s + passed_s if is_alike else 0.0,
            signs.still_s + passed_s if is_still else 0.0,
            signs.silent_s + passed_s if is_silent else 0.0,
        )
        self._looked_at, self._before = now, progress
        return self._signs
