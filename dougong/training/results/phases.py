"""The named phases of a step: what an operator sees a worker doing, and how long each one took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Progress = Callable[[int, str, int], None]
"""progress(step, phase, operation), as `Control.progress`."""


def _to_nobody(step: int, phase: str, operation: int) -> None:
    """Where nobody watches."""


class Phases:
    """One worker's way through its steps. Names of phases are those of `control.progress.PHASES`.

    `with phases("update"): ...` is a phase of the step that `begin_step` has named. What runs
    inside may say by `note` that another phase goes on there: backwards take turns with forwards.
    """

    def __init__(self, progress: Progress = _to_nobody) -> None:
        self._progress = progress
        self._step = 0
        self._seconds: dict[str, float] = {}
        self._running: str | None = None
        self._since = 0.0

    def begin_step(self, step: int) -> None:
        """From now on phases are those of `step`."""
        self._step = step
        self._seconds = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """A phase, from here to the end of the block."""
        self.note(phase, 0)
        try:
            yield
        finally:
            self._switch_to(None)

    def note(self, phase: str, operation: int) -> None:
        """Say what is done from now on; `operation` counts within the phase."""
        self._progress(self._step, phase, operation)
        self._switch_to(phase)

    @property
    def seconds(self) -> Mapping[str, float]:
        """What each phase of this step has taken so far, for a timeline."""
        return dict(self._seconds)

    def _switch_to(self, phase: str | None) -> None:
        now = time.perf_counter()
        if self._running is not None:
            spent = self._seconds.get(self._running, 0.0)
            self._seconds[self._running] = spent + now - self._since
        self._running, self._since = phase, now
