"""Steps that are computed again, or left out, in words."""

from __future__ import annotations

import pytest
from dougong.records.events import StepSkipped, StepsRecomputed
from dougong.ui.step_words import again_words, skipped_words


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (StepsRecomputed(generation=2, first=3, last=5, earlier=(1,)), "steps 3-5 computed again: the same bits"),
        (
            StepsRecomputed(generation=2, first=3, last=5, earlier=(1,), differs_from=1, then="ab" * 9, now="cd" * 9),
            "step 5 computed again: other bits than in generation 1 (ledger abababababab then, cdcdcdcdcdcd now); "
            "steps 3-4: the same bits",
        ),
    ],
)
def test_steps_that_are_computed_again(event: StepsRecomputed, words: str) -> None:
    assert again_words(event) == words


def test_a_step_that_is_left_out_names_its_samples() -> None:
    skipped = StepSkipped(
        generation=1, step=4, loss=float("nan"), grad_norm=2.0, where="not finite: the loss of lane 0"
    )
    head = "step 4 skipped (loss nan, gradient norm 2), 1 in a row; no weight has moved: not finite: the loss of lane 0"
    assert skipped_words(skipped) == head, "as an earlier release has written it"
    whole = skipped.model_copy(update={"first_sample": 24, "last_sample": 31, "windows": tuple(range(8))})
    assert skipped_words(whole) == (f"{head}; samples 24 to 31, not finite on windows 0, 1, 2, 3, 4, 5 and 2 more")
