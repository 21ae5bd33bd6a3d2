"""Sentences that take some lines to make."""

from __future__ import annotations

import pytest
from dougong.records.events import (
    GenerationStarted,
    LinksMeasured,
    ReserveEvent,
    RunShrunk,
    StepGivenUp,
    StepSkipped,
    StepsRecomputed,
    StorageAnswered,
    StorageTroubled,
)
from dougong.records.status import StillWorker
from dougong.storage.trouble import Trouble
from dougong.ui.event_words import (
    OpenTroubles,
    again_words,
    given_up_words,
    healed_words,
    link_words,
    reserve_words,
    skipped_words,
    trouble_words,
    unwritten_words,
)


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


def test_links_are_told_as_they_were_last_tried() -> None:
    def tried(generation: int, bytes_per_s: float) -> LinksMeasured:
        return LinksMeasured.model_validate({
            "generation": generation, "copies": {"a/0": {"to_host": 2e9, "from_host": 3e9}},
            "links": [{"one": "a/0", "other": "b/0", "islands": ["a", "b"], "path": "host-staged", "facts": "gloo",
                       "latency_s": 2e-4, "bytes_per_s": bytes_per_s}],
        })  # fmt: skip

    assert link_words([]) == ""
    words = link_words([tried(1, 5e8), tried(2, 9.5e8)])
    assert words.startswith("links: a/0 - b/0: host-staged, 950 MB/s, 0.2 ms; ") and "500 MB/s" not in words
    assert "2.0 GB/s" in words and "3.0 GB/s" in words, "what copies of its device give is told, too"


def test_an_event_without_a_sentence_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="has no sentence"):
        reserve_words(ReserveEvent(kind="x", generation=1))


# Storage

FULL = StorageTroubled(
    generation=1, what="its log", reason="no space", worker="a/0", dropped={"lines": 1200}, monotonic_s=5
)
RECORDS = StorageTroubled(generation=1, what="the run's records", reason="no space", kept={"events": 3}, monotonic_s=6)


def test_it_is_said_who_cannot_write_what_and_what_becomes_of_it() -> None:
    assert trouble_words(FULL) == "[a/0] its log cannot be written: no space; dropped: 1,200 of lines"
    assert trouble_words(RECORDS) == "the run's records cannot be written: no space; kept in memory: 3 of events"
    over = StorageAnswered(generation=1, what="logs", agent="a", seconds=16.0, dropped={"lines": 2})
    assert healed_words(over) == "agent a: logs can be written again, after 16 s; lost: 2 of lines"
    left = Trouble("the run's records", "no space", 1.0, kept=(("events", 3),), dropped=(("rows", 2),))
    assert unwritten_words(left).endswith("cannot be written: no space; never written: 3 of events, 2 of rows")


def test_what_is_open_is_told_until_it_is_over() -> None:
    told = OpenTroubles()
    for event in (FULL, RECORDS, RECORDS.model_copy(update={"reason": "read-only", "monotonic_s": 9})):
        told.note(event)
    assert told.words(10.0).endswith("read-only; kept in memory: 3 of events (for 4.0 s)")
    told.note(GenerationStarted(generation=2, workers=("a/0",)))  # the worker has ended
    assert told.lines() == [trouble_words(RECORDS.model_copy(update={"reason": "read-only"}))]
    told.note(StorageAnswered(generation=2, what="the run's records", seconds=4.0))
    assert told.lines() == [] and told.words(10.0) == ""


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
