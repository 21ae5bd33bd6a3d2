"""The loss on held-out data, in the whole and of each source of a mixture. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dougong.training.results.reports import LossKey, evaluation_mean


@dataclass(frozen=True, eq=False)
class HeldOutLosses:
    """One validation. `losses` by (round, lane), the rounds of one source after those of another,
    as many of each; `shares`: the part of the whole that each source's mean has."""

    losses: Mapping[LossKey, float]
    shares: Sequence[float]

    @functools.cached_property
    def by_source(self) -> dict[str, float]:
        """The mean of each source's losses, by its place in `data`, such as `mixture.0`; nothing
        where there is one source."""
        if len(self.shares) == 1:
            return {}
        each = (max(number for number, _ in self.losses) + 1) // len(self.shares)
        parts: list[dict[LossKey, float]] = [{} for _ in self.shares]
        for (number, lane), loss in self.losses.items():
            parts[number // each][number, lane] = loss
        return {f"mixture.{place}": evaluation_mean(part) for place, part in enumerate(parts)}

    @functools.cached_property
    def mean(self) -> float:
        """The loss in the whole, as training would weigh its sources."""
        if not self.by_source:
            return evaluation_mean(self.losses)
        pairs = zip(self.shares, self.by_source.values(), strict=True)
        return sum(share * loss for share, loss in pairs)

    def row(self) -> dict[str, Any]:
        """As a row of metrics has it."""
        more = {"val_by_source": self.by_source} if self.by_source else {}
        return {"val_loss": self.mean, **more}
