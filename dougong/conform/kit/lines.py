"""What the process that runs checks is asked, and what it says meanwhile. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from dougong.conform.record import CheckOutcome
from dougong.error_words import ErrorWords

Part = Literal["alone", "pair", "steps"]
"""What one process checks by itself; what two do together; what trains, in a process that has
transformers."""
PARTS: tuple[Part, ...] = ("alone", "pair", "steps")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckRequest(_Message):
    """What a process is asked for.

    part: which checks; done: names of those that are over; rank and size: of processes that begin
    each check together; store: the file by which they meet; is_shared: they have one device.
    """

    accelerator: str
    index: int
    part: Part
    folder: str
    model: str = ""
    done: tuple[str, ...] = ()
    rank: int = 0
    size: int = 1
    store: str = ""
    is_shared: bool = False


class CheckBegun(_Message):
    """A check begins. `group` and `judges` are what its outcome would say."""

    name: str
    group: str
    judges: str


class CheckLine(_Message):
    """A line of the process: a check that begins, one that is over, or why none can be made. None
    of them: the device is open."""

    begun: CheckBegun | None = None
    over: CheckOutcome | None = None
    refused: ErrorWords | None = None
