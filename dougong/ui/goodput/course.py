"""A run's course: which stretches of its time went to what, for a drawing. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Part = Literal[
    "training",
    "again",
    "validation",
    "saving",
    "between",
    "start",
    "noticing",
    "leaving",
    "preparing",
    "restoring",
    "waiting",
    "down",
]
"""To what a moment of a run goes; `ui.goodput.meter` says when which one is meant."""

WITH_STEPS: tuple[Part, ...] = ("training", "validation", "saving", "between")
"""What a healthy generation does, in turns of less than can be drawn."""


@dataclass(frozen=True)
class Stretch:
    """From `start_s` to `end_s`, seconds of the run's time."""

    part: Part
    start_s: float
    end_s: float


class Course:
    """The stretches so far, without gaps, from the beginning on; steps and what is between them are
    one."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []

    @property
    def end_s(self) -> float:
        """How far it goes."""
        return self.stretches[-1].end_s if self.stretches else 0.0

    def add(self, part: Part, seconds: float) -> None:
        """So much time went to this part."""
        part = "training" if part in WITH_STEPS else part
        if seconds > 0:
            self._append(Stretch(part, self.end_s, self.end_s + seconds))

    def repaint(self, since_s: float) -> None:
        """The steps since then have to be computed again."""
        painted, self.stretches = self.stretches, []
        for one in painted:
            if one.part != "training" or one.end_s <= since_s:
                self._append(one)
            elif one.start_s >= since_s:
                self._append(replace(one, part="again"))
            else:
                self._append(replace(one, end_s=since_s))
                self._append(Stretch("again", since_s, one.end_s))

    def _append(self, one: Stretch) -> None:
        last = self.stretches[-1] if self.stretches else None
        if last is not None and last.part == one.part:
            self.stretches[-1] = replace(last, end_s=one.end_s)
        else:
            self.stretches.append(one)
