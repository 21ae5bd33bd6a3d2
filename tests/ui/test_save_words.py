"""What saves cost is said from the rows of the steps that paid."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.ui.save_words import save_words


def row(step_s: float, **more: float) -> dict[str, Any]:
    return {"step": 1, "step_s": step_s, **more}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ""),
        ([row(1.0), row(1.0)], ""),
        ([row(1.0), row(1.5, save_s=0.2, write_s=1.5)], "1 save held it up 0.20 s"),
        (
            [row(1.0), row(1.0), row(1.5, save_s=0.2, write_s=1.5), row(1.0), row(1.3, save_s=0.4, write_s=0.4)],
            "2 saves held it up 0.30 s each, a step beside their writing took 1.40 x another's time",
        ),
    ],
)
def test_saves_are_counted_and_the_steps_beside_them_compared(rows: list[dict[str, Any]], words: str) -> None:
    assert save_words(rows, None) == save_words(rows, 0) == words


def test_a_save_behind_the_last_step_is_counted_too() -> None:
    rows: list[Any] = [row(1.0), {**row(1.0, save_s=0.2), "step": 5}]
    assert save_words(rows, 4) == "1 save held it up 0.20 s"
    assert save_words(rows, 5) == "2 saves, the first held it up 0.20 s"
    rows.append({**row(1.0, save_s=0.4), "step": 9})
    assert save_words(rows, 8) == "2 saves held it up 0.30 s each"
    assert save_words(rows, 9) == "3 saves, the first 2 held it up 0.30 s each"
    assert save_words([row(1.0)], 1) == "", "nothing is known of what it cost"
