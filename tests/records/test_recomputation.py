"""Which records count when steps are computed again, and what a comparison tells."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.records.events import StepsRecomputed
from dougong.records.recomputation import Recomputation, RecordedStep, recorded_after


def rows(*stretches: tuple[int, str, str]) -> list[dict[str, Any]]:
    """(generation, `steps`, one letter a step), such as (2, "21-23", "abc"); `.`: no ledger."""
    found = []
    for generation, steps, letters in stretches:
        first = int(steps.partition("-")[0])
        for number, letter in enumerate(letters, first):
            ledger = {} if letter == "." else {"ledger": letter}
            found.append({"generation": generation, "step": number, **ledger})
    return found


@pytest.mark.parametrize(
    ("given", "step", "digest", "expected"),
    [
        ([], 0, None, {}),
        ([(1, "1-4", "abcd")], 2, "b", {3: (1, "c"), 4: (1, "d")}),
        ([(1, "1-2", "ab")], 0, None, {1: (1, "a"), 2: (1, "b")}),
        ([(1, "1-4", "abcd")], 2, None, {}),  # a checkpoint without a ledger
        ([(1, "1-4", "....")], 2, "b", {}),
        # The first record of a step is the one to repeat, whoever came after it.
        ([(1, "1-4", "abcd"), (2, "3-5", "cxy")], 2, "b", {3: (1, "c"), 4: (1, "d"), 5: (2, "y")}),
        # Generation 1 leads on from another checkpoint 2 than that which is there.
        ([(1, "1-4", "abcd"), (2, "1-3", "axy")], 2, "x", {3: (2, "y")}),
        # So does a third one, which went on from a checkpoint of generation 1.
        ([(1, "1-4", "abcd"), (3, "4-5", "de"), (2, "1-3", "axy")], 2, "x", {3: (2, "y")}),
        # It began after the checkpoint, from what was newest then.
        ([(1, "1-3", "abc"), (2, "3-4", "cd")], 2, "b", {3: (1, "c"), 4: (2, "d")}),
    ],
)
def test_what_counts_is_what_leads_on_from_the_checkpoint(
    given: list[tuple[int, str, str]], step: int, digest: str | None, expected: dict[int, tuple[int, str]]
) -> None:
    found = recorded_after(rows(*given), step, digest)
    assert found == {number: RecordedStep(*record) for number, record in expected.items()}


def test_rows_of_earlier_releases_name_an_attempt() -> None:
    assert recorded_after([{"generation": 4, "step": 1, "ledger": "a"}], 0, None) == {1: RecordedStep(4, "a")}


RECORDED = {step: RecordedStep(1, letter) for step, letter in ((3, "c"), (4, "d"))}


def played(recomputation: Recomputation, first: int, letters: str) -> list[StepsRecomputed]:
    told = []
    for row in rows((2, f"{first}", letters)):
        event = recomputation.take(2, row)
        if event is not None:
            told.append(event)
    return told


def test_equal_steps_are_told_once_when_the_last_is_done() -> None:
    (event,) = played(Recomputation(RECORDED), 3, "cdef")
    assert (event.first, event.last, event.earlier, event.differs_from) == (3, 4, (1,), None)


def test_the_first_difference_is_told_and_ends_the_comparison() -> None:
    recomputation = Recomputation({**RECORDED, 5: RecordedStep(1, "e")})
    (event,) = played(recomputation, 3, "cxy")
    assert (event.first, event.last, event.differs_from, event.then, event.now) == (3, 4, 1, "d", "x")
    assert recomputation.difference == event
    assert recomputation.end() is None


def test_what_has_been_compared_when_a_generation_ends_is_told_then() -> None:
    recomputation = Recomputation(RECORDED)
    assert played(recomputation, 3, "c") == []
    untold = recomputation.untold
    assert untold is not None and (untold.first, untold.last) == (3, 3)
    assert recomputation.end() == untold and recomputation.end() is None


@pytest.mark.parametrize("letters", ["....", "e"])
def test_what_has_no_record_or_no_ledger_is_not_compared(letters: str) -> None:
    first = 3 if letters == "...." else 5
    recomputation = Recomputation(RECORDED)
    assert played(recomputation, first, letters) == []
    assert recomputation.untold is None
