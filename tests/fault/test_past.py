"""Which of a run's failures it ends of, and how that is said."""

from __future__ import annotations

import pytest
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.past import cause_of_end, words_of_end
from dougong.fault.policy import PastFailure

LOST = PastFailure(1, Diagnosis(Culprit("worker", "west/0"), "node_lost", "cut off"), has_stepped=True)
CRASH = PastFailure(2, Diagnosis(Culprit("worker", "east/0"), "crash", "SIGSEGV"))
AGAIN = PastFailure(3, Diagnosis(Culprit("worker", "east/0"), "crash", "SIGSEGV"))
LATER = PastFailure(3, Diagnosis(Culprit("worker", "east/1"), "crash", "SIGBUS"), has_stepped=True)
DATA = PastFailure(3, Diagnosis(Culprit("worker", "east/0"), "data", "other tokens"))


@pytest.mark.parametrize(
    ("history", "cause", "words"),
    [
        ([LOST], LOST, "west/0: node lost: cut off"),
        ([CRASH, AGAIN], CRASH, "east/0: crash: SIGSEGV (2 failures; the last was the same)"),
        ([LOST, CRASH], LOST, "west/0: node lost: cut off (first of 2 failures; the last: east/0: crash: SIGSEGV)"),
        ([LOST, CRASH, LATER], LATER, "east/1: crash: SIGBUS (the last of 3 failures)"),
        ([LOST, CRASH, DATA], DATA, "east/0: data: other tokens (the last of 3 failures)"),
    ],
)
def test_a_run_ends_of_the_first_failure_that_it_has_not_got_over(
    history: list[PastFailure], cause: PastFailure, words: str
) -> None:
    assert (cause_of_end(history), words_of_end(history)) == (cause, words)
