"""What is told of steps that are computed again, or left out. Pure."""

from __future__ import annotations

from dougong.records.events import StepSkipped, StepsRecomputed
from dougong.ui.formatting import step_range

_NAMED = 6


def again_words(event: StepsRecomputed) -> str:
    """Whether they have the bits that they had."""
    if event.differs_from is None:
        return f"{step_range(event.first, event.last)} computed again: the same bits"
    text = (
        f"step {event.last} computed again: other bits than in generation {event.differs_from} "
        f"(ledger {event.then[:12]} then, {event.now[:12]} now)"
    )
    if event.last > event.first:
        text += f"; {step_range(event.first, event.last - 1)}: the same bits"
    return text


def skipped_words(event: StepSkipped) -> str:
    """Which step has moved no weight, why, and what it was computed on."""
    numbers = f"loss {event.loss:.6g}, gradient norm {event.grad_norm:.6g}"
    text = (
        f"step {event.step} skipped ({numbers}), {event.in_a_row} in a row; no weight has moved: "
        f"{event.where}"
    )
    if event.first_sample is not None:
        text += f"; samples {event.first_sample} to {event.last_sample}"
    if event.windows:
        shown = ", ".join(str(window) for window in event.windows[:_NAMED])
        more = len(event.windows) - _NAMED
        text += f", not finite on windows {shown}" + (f" and {more} more" if more > 0 else "")
    return text
