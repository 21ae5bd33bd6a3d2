"""Who is the odd one among nodes: the two rules by which a node is named against its peers. Pure.

*Of numbers*: a node is named where its figure is less than a part of the median of all, and also
farther below it than `SPREADS` robust standard deviations (1.4826 times the median of the distances
from the median; Rousseeuw and Croux 1993) or below half of it. The first keeps small differences
from being told, the second keeps nodes that scatter by themselves from being named. It takes three.

*Of what is alike or not* (versions, bits): the nodes are named that are not of the group that holds
more than half of all.

Where neither names anybody, that nodes disagree is told, and nobody is accused: of two that differ
it cannot be said which is at fault.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

SPREADS = 3.0
_TO_DEVIATION = 1.4826
LEAST_NODES = 3

PART_OF_MATMUL, PART_OF_MEMORY, PART_OF_STORAGE = 0.75, 0.75, 0.25
"""Of the median of like devices, or of all nodes. Storage answers now so, now so."""
PART_OF_LINK = 0.5
"""Of the best link of a node, against the others' best."""

Who = TypeVar("Who", bound=Hashable)
Kind = TypeVar("Kind", bound=Hashable)


@dataclass(frozen=True)
class OddOnes(Generic[Who]):
    """`named`: the odd ones; `usual`: what the others have, the median of numbers; `disagree`:
    nodes that differ though nobody is named."""

    named: tuple[Who, ...] = ()
    usual: object = None
    disagree: tuple[Who, ...] = ()


def judge_numbers(values: Mapping[Who, float], part: float) -> OddOnes[Who]:
    """Of figures by node, the larger the better. `part`: as above, such as 0.75."""
    if not values:
        return OddOnes()
    middle = statistics.median(values.values())
    if len(values) < LEAST_NODES:
        differ = min(values.values()) < part * max(values.values())
        return OddOnes((), middle, tuple(values) if differ else ())
    spread = _TO_DEVIATION * statistics.median(abs(value - middle) for value in values.values())
    least = min(part * middle, max(middle - SPREADS * spread, middle / 2))
    return OddOnes(tuple(name for name, value in values.items() if value < least), middle)


def judge_kinds(kinds: Mapping[Who, Kind]) -> OddOnes[Who]:
    """Of what each node has, of which all should have one."""
    groups: dict[Kind, list[Who]] = {}
    for name, kind in kinds.items():
        groups.setdefault(kind, []).append(name)
    if len(groups) < 2:
        return OddOnes((), next(iter(groups), None))
    usual, largest = max(groups.items(), key=lambda entry: len(entry[1]))
    if 2 * len(largest) <= len(kinds):
        return OddOnes((), None, tuple(kinds))
    return OddOnes(tuple(name for name in kinds if name not in largest), usual)
