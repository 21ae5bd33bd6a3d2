"""Events of agents that stand by, and of a run that goes on with fewer workers and comes back."""

from __future__ import annotations

from typing import Literal

from dougong.records.event.base import RunEvent


class ReserveEvent(RunEvent):
    """Any of those below."""


class SpareStands(ReserveEvent):
    """An agent stands by: what its workers import is there, and no device is open."""

    kind: Literal["spare_stands"] = "spare_stands"
    agent: str
    node: str


class SpareLost(ReserveEvent):
    """An agent that stood by, or was about to, is gone. Training goes on, and another one is
    sought."""

    kind: Literal["spare_lost"] = "spare_lost"
    agent: str
    node: str
    reason: str


class SpareShort(ReserveEvent):
    """An agent should stand by and cannot, in words; training goes on, and it is sought again."""

    kind: Literal["spare_short"] = "spare_short"
    text: str


class SpareTook(ReserveEvent):
    """An agent that stood by has taken the place of a lost one, `place`, and its workers."""

    kind: Literal["spare_took"] = "spare_took"
    agent: str
    node: str
    place: str
    workers: tuple[str, ...]


class RunShrunk(ReserveEvent):
    """The run goes on with `now` of its workers, before `before`; `missing`: those that it does
    without; `reason`: why."""

    kind: Literal["shrunk"] = "shrunk"
    before: int
    now: int
    missing: tuple[str, ...]
    reason: str


class RunGrown(ReserveEvent):
    """Workers that the run did without are back: `now` of them, before `before`."""

    kind: Literal["grown"] = "grown"
    before: int
    now: int
    workers: tuple[str, ...]
