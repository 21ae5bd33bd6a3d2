"""Schedules come from their seed alone, and draw what a run survives."""

from __future__ import annotations

import pytest
from dougong.job.drills.vocabulary import MOST_APART_S, continuing, known_fault, orderable
from dougong.tools.drill.schedule import QUIET_STEPS, PlannedFault, draw_schedule, drawable

WORKERS = ("a/0", "e/0", "b/0")
ROWS = drawable(continuing(), has_lab=False)


def test_the_same_key_draws_the_same() -> None:
    assert draw_schedule("7/1", ROWS, WORKERS, 40, 3) == draw_schedule("7/1", ROWS, WORKERS, 40, 3)
    drawn = {draw_schedule(f"7/{number}", ROWS, WORKERS, 40) for number in range(20)}
    assert len(drawn) > 15


def test_what_is_drawn_can_be_done() -> None:
    """Every row and every worker comes in its turn; a pair's second part comes soon after its first."""
    seen, struck = set(), set()
    for number in range(300):
        planned = draw_schedule(f"1/{number}", ROWS, WORKERS, 40)
        seen.add("+".join(one.fault for one in planned))
        struck |= {one.worker for one in planned}
        first, *second = planned
        assert first.at_step is not None and QUIET_STEPS <= first.at_step < 40 - QUIET_STEPS
        for one in second:
            assert one.after_s is not None and 0 <= one.after_s <= MOST_APART_S
        for one in planned:
            row = known_fault(one.fault)
            assert row is not None and (one.for_s is None) == (row.lasts_s is None)
    assert seen == {row.name for row in ROWS} and struck == {*WORKERS, ""}, "the controller is nobody's"


def test_without_a_lab_only_what_processes_do_to_themselves_is_drawn() -> None:
    singles = {row.name for row in ROWS if not row.parts}
    assert singles == {row.name for row in orderable()}
    assert {"kill+kill", "kill+kill_agent"} <= {row.name for row in ROWS}
    assert drawable(continuing(), has_lab=True) == continuing()


def test_where_every_step_is_audited_a_bit_that_is_computed_wrongly_is_drawn() -> None:
    silent = {"flip_gradient", "flip_activation"}
    assert not silent & {row.name for row in ROWS}
    audited = {row.name for row in drawable(continuing(is_audited=True), has_lab=False, is_audited=True)}
    assert audited == {row.name for row in ROWS} | silent


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (PlannedFault("stop", "a/0", at_step=4, for_s=2.5), "stop a/0 for 2.5 s as step 4 begins"),
        (PlannedFault("kill", "a/0", after_s=1.5), "kill a/0 1.5 s later"),
    ],
)
def test_words(fault: PlannedFault, words: str) -> None:
    assert str(fault) == words
