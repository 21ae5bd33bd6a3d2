"""Sentences that take some lines to make."""

from __future__ import annotations

import pytest
from dougong.records.events import ReserveEvent, RunShrunk, StepGivenUp
from dougong.records.status import StillWorker
from dougong.ui.event_words import given_up_words, reserve_words


def test_a_step_that_was_given_up_says_where_its_workers_stood_and_what_is_kept() -> None:
    still = [StillWorker(name=f"east/{i}", step=3, phase="exchange") for i in range(2)]
    event = StepGivenUp(generation=1, limit="60 s", workers=(*still, StillWorker(name="west/0", step=3)))
    text = given_up_words(event)
    assert text.startswith(
        "the step did not end: no worker has moved for 60 s; east/0-1 in exchange of step 3; west/0 in"
    )
    assert text.endswith("the run ends without it, there is no checkpoint")
    assert given_up_words(event.model_copy(update={"checkpoint": "step-000002"})).endswith("kept is step-000002")


def test_a_run_that_shrinks_says_why_and_that_its_bits_are_the_same() -> None:
    event = RunShrunk(generation=2, before=3, now=2, missing=("west/0",), reason="no node")
    level, text = reserve_words(event)
    assert (level, text) == (
        "warning",
        "the run goes on with 2 of 3 workers, without [west/0]: no node; the bits stay the same",
    )


def test_an_event_without_a_sentence_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="has no sentence"):
        reserve_words(ReserveEvent(kind="x", generation=1))
