"""Events of the links between islands."""

from __future__ import annotations

from typing import Literal

from dougong.parallel.bridge.measured import CopyRates, MeasuredLink
from dougong.records.event.base import RunEvent


class LinksMeasured(RunEvent):
    """What the links between islands give, before a generation's first step. `copies`: between a
    worker's device and its host, by worker."""

    kind: Literal["links"] = "links"
    links: tuple[MeasuredLink, ...]
    copies: dict[str, CopyRates] = {}
