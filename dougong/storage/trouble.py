"""That storage does not take what is to be written, and that it takes it again: as values."""

from __future__ import annotations

from dataclasses import dataclass

NO_ANSWER = "storage does not answer"
"""The reason of whoever is stuck in a call of the storage."""

Counts = tuple[tuple[str, int], ...]
"""Pieces by the name of their kind."""


@dataclass(frozen=True)
class Trouble:
    """Some writer's storage refuses, or does not answer.

    `what` is written, in words; `reason`: why it is not; `since`: monotonic seconds. `kept`: pieces
    that wait in memory; `dropped`: those there was no room for since.
    """

    what: str
    reason: str
    since: float
    kept: Counts = ()
    dropped: Counts = ()


@dataclass(frozen=True)
class Healed:
    """Storage answers again, after so many seconds. `dropped`: what is lost for good."""

    what: str
    seconds: float
    dropped: Counts = ()


News = Trouble | Healed
