"""The verdict on a run's bits: what was computed twice, and whether it came out the same. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dougong.records.events import StepsRecomputed
from dougong.ui.formatting import plural, step_range
from dougong.ui.history import History
from dougong.ui.sentences import Level


@dataclass(frozen=True)
class BitsVerdict:
    """`text`: the verdict in a sentence."""

    level: Level
    text: str


def bits_verdict(history: History) -> BitsVerdict:
    """The sum of all comparisons of a run. Steps that were lost and not reached again so far are
    compared later, or never."""
    told = history.recomputed
    equal = sum(_num_equal(event) for event in told)
    parted = [event for event in told if event.differs_from is not None]
    if parted:
        return BitsVerdict("error", _parted_words(parted[0], equal))
    if equal:
        words = "all with the same bits" if equal > 1 else "with the same bits"
        lost = sum(len(stretch) for stretch in history.rewound)
        open_words = f" ({lost} were lost)" if lost > equal else ""
        text = f"{plural(equal, 'step')} computed again{open_words}, {words}: {_where(told)}"
        return BitsVerdict("good", text)
    if not history.rewound:
        return BitsVerdict("info", "no step was computed twice, so there was nothing to compare")
    if not any(row.get("ledger") for row in history.rows):
        why = "its rows hold no ledger (determinism: off, or an earlier release)"
        return BitsVerdict("info", f"steps were computed twice, and not compared: {why}")
    return BitsVerdict("info", "steps were lost, and none of them has been compared so far")


def _num_equal(event: StepsRecomputed) -> int:
    """The last step is the one that differs, where one does."""
    return event.last - event.first + (event.differs_from is None)


def _parted_words(event: StepsRecomputed, equal: int) -> str:
    text = (
        f"step {event.last} computed again gave other bits than in generation "
        f"{event.differs_from} (ledger {event.then[:12]} then, {event.now[:12]} now)"
    )
    return f"{text}; {plural(equal, 'other step')}: the same bits" if equal else text


def _where(told: Sequence[StepsRecomputed]) -> str:
    shown = [step_range(event.first, event.last) for event in told[:8]]
    more = [f"{len(told) - 8} more times"] if len(told) > 8 else []
    return ", ".join([*shown, *more])
