"""Whether a layer's router sends everything to a few experts: told once when it lasts, and again
when it has ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dougong.parallel.plan import Inventory

COLLAPSED_SHARE = 0.9
"""A layer whose busiest experts, as many as a token chooses, take so much has collapsed..."""
SPREAD_SHARE = 0.75
"""...and has spread again below this. Between the two it stays what it was."""
STEPS = 10
"""For so many steps in a row: a router that has just been initialised may begin uneven."""


@dataclass(frozen=True)
class RouterNews:
    """`text`: what to tell. `is_bad`: layers have collapsed; else they have spread again."""

    text: str
    is_bad: bool


@dataclass
class RouterWatch:
    """What is known of each layer. `streaks`: how many steps in a row it has been collapsed;
    `told`: the layers of which that was told."""

    streaks: dict[int, int] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)

    def note(self, row: Mapping[str, Any], inventory: Inventory) -> tuple[RouterNews, ...]:
        """One step's row; what is news in it."""
        shares = (row.get("load") or {}).get("busiest_share", [])
        num_busiest = inventory.experts_per_token
        # Where a token chooses most of the experts, few of them always take most of it.
        if 2 * num_busiest > inventory.num_experts:
            return ()
        collapsed, spread = self._judge(shares)
        news = []
        if collapsed:
            least = min(shares[layer] for layer in collapsed)
            some = f"{min(least, 0.99):.0%} of the tokens or more"  # never rounded up to all
            share = "all of the tokens" if least >= 1 else some
            few = f"{num_busiest} of {inventory.num_experts} experts took {share}"
            news.append(RouterNews(_collapse_words(collapsed, few), is_bad=True))
        if spread:
            text = f"{_layers(spread)}: the tokens go to more than a few experts again"
            news.append(RouterNews(text, is_bad=False))
        return tuple(news)

    def _judge(self, shares: Sequence[float]) -> tuple[list[int], list[int]]:
        """The layers that have collapsed for long enough, and those that have spread again."""
        collapsed, spread = [], []
        for layer, share in enumerate(shares):
            is_over = share >= COLLAPSED_SHARE
            self.streaks[layer] = self.streaks.get(layer, 0) + 1 if is_over else 0
            if self.streaks[layer] >= STEPS and layer not in self.told:
                self.told.add(layer)
                collapsed.append(layer)
            elif share < SPREAD_SHARE and layer in self.told:
                self.told.remove(layer)
                spread.append(layer)
        return collapsed, spread


def _collapse_words(layers: Sequence[int], few: str) -> str:
    return (
        f"{_layers(layers)}: {few} for {STEPS} steps; the others learn "
        "nothing: set or raise router.global_loss (or router.sequence_loss, router.bias_rate), or "
        "lower optimizer.lr"
    )


def _layers(numbers: Sequence[int]) -> str:
    """As the report's map of the load counts them."""
    return f"MoE {'layer' if len(numbers) == 1 else 'layers'} {', '.join(map(str, numbers))}"
