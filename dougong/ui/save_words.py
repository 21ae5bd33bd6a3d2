"""What saves cost a run, in words: for how long they held it up, and what the steps beside their
writing took."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from dougong.records.metrics import MetricsRow
from dougong.ui.formatting import duration, plural

_LEAST_OTHERS = 3
"""Of fewer steps nothing is usual."""


def save_words(rows: Sequence[MetricsRow], saved: int | None) -> str:
    """`3 saves held it up 0.02 s each, a step beside their writing took 1.04 x another's time`;
    empty where these rows tell of no save. `saved`: the step of the newest checkpoint: what one
    cost is told by the row of the step behind it, which the last one has not."""
    held = [row["save_s"] for row in rows if row.get("save_s")]
    if not held:
        return ""
    words = _held_words(held, 1 if saved is not None and saved >= rows[-1]["step"] else 0)
    beside = [row["step_s"] for row in rows if row.get("write_s") and row.get("step_s")]
    others = [row["step_s"] for row in rows if row.get("step_s") and not row.get("write_s")]
    if not beside or len(others) < _LEAST_OTHERS:
        return words
    times = median(beside) / median(others)
    return f"{words}, a step beside their writing took {times:.2f} x another's time"


def _held_words(held: Sequence[float], num_untold: int) -> str:
    took = duration(median(held)) + (" each" if len(held) > 1 else "")
    saves = plural(len(held) + num_untold, "save")
    if not num_untold:
        return f"{saves} held it up {took}"
    first = f"the first {len(held)}" if len(held) > 1 else "the first"
    return f"{saves}, {first} held it up {took}"
