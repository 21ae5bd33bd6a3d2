"""Which way bytes take between two islands, as a plan holds it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

PathClass = Literal["native", "host", "host-staged", "bridge"]
"""By the island's native library; between host memory and host memory; through host memory at an
end that computes on a device; by a bridge that a package offers."""


@dataclass(frozen=True)
class IslandPath:
    """The way between workers of these islands, which may be one and the same; `one` comes first in
    the plan. `bridge`: the name of what a package offers, where that is the way."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    one: str
    other: str
    way: PathClass
    bridge: str = ""

    @property
    def is_bridged(self) -> bool:
        """Whether a bridge is crossed on it."""
        return self.way in ("host-staged", "bridge")

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.bridge or self.way


def path_between(paths: Iterable[IslandPath], one: str, other: str) -> IslandPath | None:
    """That of these two islands; None where it is not among them."""
    for path in paths:
        if {path.one, path.other} == {one, other}:
            return path
    return None
