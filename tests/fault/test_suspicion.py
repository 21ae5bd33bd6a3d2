"""Who hangs is who waits for nobody: signs of life of all workers, and the one that is suspected."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dougong.control.progress import WorkerSigns
from dougong.deadlines import DEADLINES
from dougong.fault.stillness import WAIT, StillTimes
from dougong.fault.suspicion import Roster, Sign, WaitedFor, WorkerView, suspicions, waits_for

WORKERS = ("east/0", "east/1", "west/0")


def learned() -> StillTimes:
    """Steps of 0.1 s in all phases."""
    times = StillTimes()
    for _ in range(5):
        for worker in WORKERS:
            for phase in ("forward", "exchange", WAIT):
                times.note(worker, phase, 0.1)
        times.step_done()
    return times


def view(name: str, still_s: float = 2.0, *awaited: str, phase: str = "forward", **signs: object) -> WorkerView:
    given = WorkerSigns(**{"state": "S", "state_s": 2.0, **signs, "still_s": still_s})  # type: ignore[arg-type]
    return WorkerView(name, 61, phase, 12, awaited, given)


STOPPED = {"state": "T", "silent_s": 2.0}
EAST1_WAITS = view("east/1", 2.0, "west/0")
WEST_WAITS = view("west/0", 2.0, "east/0", "east/1")
ROWS = {
    "all move": ([view("east/0", 0.0), view("east/1", 0.3, "east/0"), view("west/0", 0.0, "east/0")], None),
    "a stopped one, though it had been waiting": (
        [view("east/0", 2.0, "west/0", **STOPPED), EAST1_WAITS, WEST_WAITS],
        ("east/0", Sign.STOPPED),
    ),
    "a stopped one, at once": (
        [view("east/0", 0.2, state="T", state_s=0.2), view("east/1", 0.1, "east/0"), view("west/0", 0.1, "east/0")],
        ("east/0", Sign.STOPPED),
    ),
    "a debugger's glance": ([view("east/0", 0.1, state="T", state_s=0.0), view("east/1", 0.1)], None),
    "one whose interpreter is held, though it had been waiting": (
        [view("east/0", 2.0, "west/0", state="R", silent_s=1.9), EAST1_WAITS, WEST_WAITS],
        ("east/0", Sign.SILENT),
    ),
    "one on slow storage": (
        [view("east/0", 2.0, state="D", state_s=1.9), EAST1_WAITS, WEST_WAITS],
        ("east/0", Sign.IN_KERNEL),
    ),
    "one that computes without end": (
        [view("east/0", 2.0, state="R"), EAST1_WAITS, WEST_WAITS],
        ("east/0", Sign.STILL),
    ),
    "a computation in a phase that may be long": (
        [view("east/0", 2.0, state="R", phase="validate"), EAST1_WAITS, WEST_WAITS],
        None,
    ),
    "all wait for each other": (
        [view("east/0", 2.5, "west/0"), EAST1_WAITS, WEST_WAITS],
        ("east/0", Sign.CIRCLE),
    ),
    "all wait, and one of them has just moved": (
        [view("east/0", 2.5, "west/0"), EAST1_WAITS, view("west/0", 0.2, "east/0")],
        None,
    ),
    "two wait for each other, and one for somebody who works": (
        [view("east/0", 2.5, "east/1"), view("east/1", 2.4, "east/0"), view("west/0", 0.1)],
        ("east/0", Sign.CIRCLE),
    ),
    "one asks of a worker that has ended": ([view("east/0", 2.5, "west/0")], ("east/0", Sign.CIRCLE)),
    "one waits for a worker that nobody sees": (
        [view("east/0", 2.5, "west/0"), replace(view("west/0", 9.0), is_seen=False)],
        None,
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_who_is_suspected(row: str) -> None:
    views, expected = ROWS[row]
    found = suspicions(views, learned(), DEADLINES)
    assert [(one.culprit.name, one.sign) for one in found[:1]] == ([expected] if expected else [])
    assert not any(one.is_due for one in found), "to suspect is not to act"


@pytest.mark.parametrize(
    ("late", "is_due"),
    [
        (view("east/0", 2.9, state="T", state_s=2.9), False),
        (view("east/0", 3.1, state="T", state_s=3.1), True),
        (view("east/0", 3.1, state="T", state_s=3.1, phase="validate"), True),
        (view("east/0", 3.1, state="R", silent_s=3.1), True),
        (view("east/0", 3.1, state="R"), True),
        (view("east/0", 90.0, state="R", phase="validate"), False),
        (view("east/0", 90.0, state="D", state_s=90.0, phase="checkpoint"), False),
        (view("east/0", 90.0, state="R", phase="idle"), False),  # never seen before
        (view("east/0", 3.1, state="R", phase="update"), True),  # of every step, and too short to be seen
        (view("east/0", 8.9, "west/0"), False),
        (view("east/0", 9.1, "west/0"), True),
    ],
)
def test_how_long_it_may_last(late: WorkerView, is_due: bool) -> None:
    others = [replace(other, signs=late.signs) for other in (EAST1_WAITS, WEST_WAITS)]
    others = [replace(other, signs=replace(other.signs, state="S", silent_s=0.0)) for other in others]
    assert any(one.is_due for one in suspicions([late, *others], learned(), DEADLINES)) is is_due


def test_the_evidence_says_what_was_seen() -> None:
    (one, *_) = suspicions([view("east/0", 2.0, **STOPPED), EAST1_WAITS, WEST_WAITS], learned(), DEADLINES)
    assert one.evidence == (
        "process state T for 2.0 s",
        "no pulse of its interpreter for 2.0 s",
        "at forward of step 61, operation 12, not moved for 2.0 s",
        "west/0 waits for it",
    )
    assert (one.why, one.limit) == ("stopped", "3 s (fault.deadlines.hang_s)")


def test_for_whom_a_worker_waits_is_said_shortly() -> None:
    assert waits_for(view("east/0")) == ""
    assert waits_for(view("east/0", 1.0, *(f"w/{i}" for i in range(8)))).endswith("w/5 and 2 more")


def test_whom_a_worker_waits_for_is_named_only_where_somebody_asks() -> None:
    roster = Roster(tuple(f"w/{rank}" for rank in range(10)))
    peers = WaitedFor(roster, 0b101 << 4 | 1 << 12)
    assert list(peers) == ["w/4", "w/6"] and len(peers) == 2 and bool(peers)
    assert "w/6" in peers and "w/5" not in peers and "somebody" not in peers
    assert peers[:1] == ("w/4",) and peers[1] == "w/6" and not WaitedFor(roster, 1 << 10)
    assert waits_for(replace(view("w/0"), awaited=peers)) == "waits for w/4, w/6"


class Counted(WaitedFor):
    """Says how often somebody wants the names one by one."""

    walks = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        type(self).walks += 1
        return super().__iter__()


@pytest.mark.parametrize("still_s", [0.2, 2.0])
@pytest.mark.parametrize("works", [True, False])
def test_thousands_who_wait_for_all_others_are_looked_at_once_each(still_s: float, works: bool) -> None:
    """It was everybody's list of everybody, and a walk through all of them for each: W^2 and more."""
    num_workers = 2000
    roster = Roster(tuple(f"w/{rank}" for rank in range(num_workers)))
    views = []
    for rank, name in enumerate(roster.names):
        awaited = Counted(roster, 0 if works and rank == 7 else roster.all ^ 1 << rank)
        views.append(replace(view(name, 0.1 if works and rank == 7 else still_s), awaited=awaited))
    Counted.walks = 0
    found = suspicions(views, learned(), DEADLINES)
    assert [one.sign for one in found] == ([] if works or still_s < DEADLINES.suspect_s else [Sign.CIRCLE])
    assert Counted.walks <= 10, "the names of a few for the evidence, and of nobody else"
