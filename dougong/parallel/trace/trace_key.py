"""A place in a step's computation that does not depend on the layout: what a trace's checksums are
filed under.

The model is cut at its experts calls (*sites*) into *segments*: segment i ends at site i, the last
one with the loss. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FORWARD, BACKWARD, SUMS = "forward", "backward", "sums"
_DIRECTIONS = (FORWARD, BACKWARD, SUMS)
WHOLE_STEP = 1 << 30
"""In the place of a micro-batch or a site: of all of them."""
ALL_LANES = -1
"""In the place of a lane: an expert's gradient is added up over all of them."""

_WORDS = {
    "hidden": "the hidden states that it hands to the experts",
    "choice": "the router's choice of experts",
    "weights": "the router's weights",
    "outputs": "the outputs",
    "loss": "the loss",
    "doutput": "the gradient that it hands back to the experts",
    "dweights": "the gradient of the router's weights",
    "drows": "the gradient of its rows",
    "leaf": "the gradient of",
}
_ORDER = tuple(_WORDS)


@dataclass(frozen=True)
class TraceKey:
    """Where a value comes from. `what`: a key of the words above. `part`: an expert's number, or a
    tensor's name."""

    lane: int
    microbatch: int
    direction: str
    site: int
    what: str
    part: int | str = -1

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts by the order in which the model computes, which is no layout's: micro-batches, then
        forward by site, then backward, then what the lane adds up over the step; lanes last."""
        site = -self.site if self.direction == BACKWARD else self.site
        part = (self.part, "") if isinstance(self.part, int) else (0, self.part)
        direction = _DIRECTIONS.index(self.direction)
        return (self.microbatch, direction, site, _ORDER.index(self.what), self.lane, part)

    def describe(self, sites: Sequence[str]) -> str:
        """In words. `sites`: the names of the model's experts modules."""
        if self.direction == SUMS:
            return self._sum_in_words()
        where = f"lane {self.lane}, micro-batch {self.microbatch}, {self.direction}"
        return f"{where}, {self._place(sites)}: {_WORDS[self.what]}"

    def _sum_in_words(self) -> str:
        who = "all lanes" if self.lane == ALL_LANES else f"lane {self.lane}"
        what = f"{_WORDS[self.what]} {self.part}"
        if self.microbatch == WHOLE_STEP:
            return f"{who}: {what}, added over its micro-batches"
        return f"{who}, micro-batch {self.microbatch}: {what}"

    def _place(self, sites: Sequence[str]) -> str:
        """The experts call, or the segment, that has computed it."""
        if self.what in ("outputs", "dweights", "drows"):
            expert = f", expert {self.part}" if self.part != -1 else ""
            return f"{sites[self.site]}{expert}"
        segment = self.site + 1 if self.direction == BACKWARD else self.site
        return _segment(segment, sites)

    def to_list(self) -> list[Any]:
        return [self.lane, self.microbatch, self.direction, self.site, self.what, self.part]


def first_difference(a: dict[TraceKey, int], b: dict[TraceKey, int]) -> TraceKey | None:
    """The first place, in the model's order, whose checksums are not the same in both; None when
    there is none."""
    return min(
        (p for p in a.keys() | b.keys() if a.get(p) != b.get(p)),
        key=lambda p: p.order,
        default=None,
    )


def _segment(number: int, sites: Sequence[str]) -> str:
    after = f"after {sites[number - 1]}" if number else "from the start"
    before = f"up to {sites[number]}" if number < len(sites) else "to the loss"
    return f"segment {number} ({after} {before})"
