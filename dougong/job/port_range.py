"""A range of ports, as the key `ports` and the variable DOUGONG_PORTS name it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LOWEST_PORT = 1024
"""The system keeps those below for its own services."""
HIGHEST_PORT = 65535
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")


@dataclass(frozen=True)
class Ports:
    """TCP ports from `first` to `last`, both among them."""

    first: int
    last: int

    @staticmethod
    def read(text: str) -> Ports:
        """What `20000-20100` means. ValueError, with the rule, for anything else."""
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise ValueError("must be FIRST-LAST, such as 20000-20100")
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise ValueError(f"must begin with the lower port: {last}-{first}")
        if first < LOWEST_PORT or last > HIGHEST_PORT:
            raise ValueError(f"must lie between {LOWEST_PORT} and {HIGHEST_PORT}")
        return Ports(first, last)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def beginning_at(self, place: int) -> Iterator[int]:
        """All of them once, in a ring; `place`: any whole number, which says where it begins."""
        for index in range(len(self)):
            yield self.first + (place + index) % len(self)


PER_WORKER = 4
"""What a worker listens on: a socket for each group of workers that it exchanges messages in."""
PER_AGENT = 1
OF_CONTROLLER = 3
"""Agents and clients, the store where workers meet, and the trial of the paths."""


def num_needed(workers: int, agents: int, with_controller: bool = False) -> int:
    """How many ports one run listens on, at most, on a machine with so many of them."""
    controller = OF_CONTROLLER if with_controller else 0
    return PER_WORKER * workers + PER_AGENT * agents + controller
