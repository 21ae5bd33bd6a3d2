"""How long a worker may stand still: learned for each worker and each phase of a step. Pure.

Phases are those of the progress vector. What is learned is the longest time that the worker stood
still in one, once for every step; it is kept from one generation to the next.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from dougong.deadlines import Deadlines

WAIT = "wait"
"""To wait for peers counts as a phase of its own, wherever in the step that is."""

_KEPT = 256
"""So many steps count."""
_LEAST = 3
"""Steps from which a limit can be learned, and steps with which a generation warms up: memory is
touched for the first time, kernels are chosen and compiled."""
_TIMES = 3.0
_ANNOUNCED = {
    "start": "build_s",
    "validate": "evaluation_s",
    "checkpoint": "commit_checkpoint_s",
}
"""Phases that may be long, and differ from one time to the next: the field of `Deadlines` for
each."""
_OF_EVERY_STEP = ("forward", "backward", "exchange", "update", WAIT)
"""Where nothing has been seen in so many steps, nobody has stood still: steps may be shorter than
the time between two looks."""


@dataclass
class StillTimes:
    """What has been learned, by (worker, phase): seconds. `warm_steps`: of this generation."""

    warm_steps: int = 0
    _known: dict[tuple[str, str], deque[float]] = field(default_factory=dict)
    _p99: dict[tuple[str, str], float] = field(default_factory=dict)
    _longest: dict[tuple[str, str], float] = field(default_factory=dict)
    _is_spoiled: bool = False

    def begin_generation(self) -> None:
        """Another one: it warms up anew."""
        self.warm_steps, self._is_spoiled = 0, False
        self._longest.clear()

    def note(self, worker: str, phase: str, still_s: float) -> None:
        """The worker has stood still for so long by now."""
        key = worker, phase
        self._longest[key] = max(still_s, self._longest.get(key, 0.0))

    def spoil(self) -> None:
        """Something is wrong with this step: nothing is learned from it."""
        self._is_spoiled = True

    def step_done(self) -> None:
        """The step went well, unless it was spoiled."""
        if not self._is_spoiled:
            self.warm_steps += 1
            for key, still_s in self._longest.items():
                known = self._known.setdefault(key, deque(maxlen=_KEPT))
                known.append(still_s)
                self._p99[key] = sorted(known)[math.ceil(0.99 * len(known)) - 1]
        self._longest.clear()
        self._is_spoiled = False

    def usual_s(self, worker: str, phase: str) -> float | None:
        """The 99th percentile of what is known; None while that is too little."""
        if phase in _OF_EVERY_STEP and self.warm_steps >= _LEAST:
            return self._p99.get((worker, phase), 0.0)
        known = self._known.get((worker, phase), ())
        return self._p99[worker, phase] if len(known) >= _LEAST else None

    def limit_s(self, worker: str, phase: str, deadlines: Deadlines) -> float:
        """How long the worker may stand still there before it is given up."""
        if phase in _ANNOUNCED:
            return float(getattr(deadlines, _ANNOUNCED[phase]))
        usual_s = self.usual_s(worker, phase)
        if usual_s is None or self.warm_steps < _LEAST:
            return deadlines.warm_up_s
        return max(deadlines.hang_s, _TIMES * usual_s)

    def limit_words(self, worker: str, phase: str, deadlines: Deadlines) -> str:
        """That limit for a person, with its key."""
        if phase in _ANNOUNCED:
            return deadlines.words(_ANNOUNCED[phase])
        limit_s = self.limit_s(worker, phase, deadlines)
        for name in ("hang_s", "warm_up_s"):
            if limit_s == getattr(deadlines, name):
                return deadlines.words(name)
        return f"{limit_s:.1f} s (three times what is usual for it there)"
