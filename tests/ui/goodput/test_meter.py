"""Goodput: every second of a run goes to one part, and steps that come again are no training."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from dougong.records.events import Event, from_json
from dougong.records.metrics import MetricsRow
from dougong.records.status import Goodput
from dougong.ui.goodput.meter import PARTS, WORDS, GoodputMeter, course_of, follow
from tests.ui.recorded import failed_run, finished_run, running_run

START = datetime(2025, 1, 1, tzinfo=timezone.utc)


def wall(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


class Record:
    """Events and rows, each at a second of its own; `fence`: whose they are."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.rows: list[MetricsRow] = []
        self.fence = 1

    def event(self, kind: str, at: float, generation: int = 1, **fields: Any) -> None:
        clocks = {"monotonic_s": at, "wall": wall(at), "fence": self.fence}
        self.events.append(from_json({"kind": kind, "generation": generation, **clocks, **fields}))

    def row(self, step: int, at: float, generation: int = 1, step_s: float = 1.0, **fields: Any) -> None:
        clocks = {"monotonic_s": at, "wall": wall(at), "fence": self.fence}
        self.rows.append({"step": step, "generation": generation, "step_s": step_s, **clocks, **fields})

    def begin(self, at: float, generation: int = 1, step: int = 0) -> None:
        """A controller, and four seconds later the order of a generation."""
        self.event("created", at, generation, job="toy")
        self.event("generation_started", at + 4, generation, workers=[], step=step)

    def fail(self, at: float, generation: int = 1, latency_s: float | None = None, action: str = "restart") -> None:
        told = {"worker": "east/1", "class": "crash", "cause": "SIGKILL"}
        self.event("worker_died", at, generation, **told)
        self.event("diagnosis", at, generation, latency_s=latency_s, **told)
        self.event("decision", at, generation, action=action, reason="")

    def parts(self) -> dict[str, float]:
        """Those that are not nothing."""
        found = of(self)
        return {part: seconds for part, seconds in found.parts.items() if seconds}


def of(record: Record) -> Goodput:
    return course_of(record.events, record.rows)[0]


def begun() -> Record:
    """Two steps, the second with a validation, after five seconds of start-up."""
    record = Record()
    record.begin(100)
    record.event("first_step", 106, step=1)
    record.row(1, 106)
    record.row(2, 109, save_s=0.5, validate_s=1.0)
    return record


def test_every_part_has_words_and_their_order_is_one() -> None:
    assert tuple(WORDS) == PARTS


def test_steps_saves_and_validation_are_told_apart() -> None:
    record = begun()
    record.event("finished", 111, step=2)
    record.event("state", 111, state="FINISHED")
    expected = {"start": 5.0, "training": 2.0, "saving": 2.5, "between": 0.5, "validation": 1.0}
    assert record.parts() == expected
    assert of(record).share == pytest.approx(2 / 11)


def test_a_recovery_has_its_phases_and_what_comes_again_is_no_training() -> None:
    record = begun()
    record.fail(113, latency_s=3.0)
    record.event("phase_started", 114, phase="agents")
    record.event("waiting", 115, text="a node for west/0")
    record.event("agents_started", 120, agents=[])
    record.event("generation_started", 121, 2, workers=[], step=1, in_memory=True)
    record.event("state_restored", 122, 2, step=1)
    record.row(2, 124, 2)
    assert record.parts() == {
        "start": 5.0, "training": 2.0, "again": 2.0, "saving": 0.5, "between": 0.5, "validation": 1.0,
        "noticing": 3.0, "leaving": 1.0, "preparing": 2.0, "waiting": 5.0, "restoring": 2.0,
    }  # fmt: skip
    assert of(record).steps_again == 1


def test_the_row_of_a_step_that_was_told_after_the_fault_is_training() -> None:
    record = begun()
    record.fail(113, latency_s=2.0)
    record.event("generation_started", 114, 2, workers=[], step=3)
    record.row(3, 115)
    record.event("state_restored", 115, 2, step=3)
    record.row(4, 117, 2)
    found = of(record)
    assert (found.parts["training"], found.parts["again"], found.steps_again) == (4.0, 1.0, 0)
    assert found.wall_s == 17.0


def test_decisions_that_break_no_generation_begin_no_recovery() -> None:
    """Whether nothing has ended, or the recovery is under way and takes another course."""
    record = begun()
    for action in ("ignore", "retry_step", "skip_batch", "grow_back"):
        record.event("decision", 109.5, action=action, reason="")
    record.fail(113)
    record.event("phase_started", 114, phase="agents")
    record.event("decision", 116, action="shrink", reason="", again=True)
    record.event("generation_started", 118, 2, workers=[], step=2)
    parts = record.parts()
    assert (parts["leaving"], parts["preparing"], parts["again"]) == (1.0, 4.0, 4.0)


def test_a_generation_that_rests_so_that_others_join_loses_nothing() -> None:
    record = begun()
    record.event("state", 109.5, state="GROWING")
    record.row(3, 110)
    record.event("generation_started", 112, 2, workers=[], step=3, in_memory=True)
    record.row(4, 114, 2)
    expected = {"training": 4.0, "between": 0.5, "leaving": 2.0, "restoring": 1.0}
    assert {part: seconds for part, seconds in record.parts().items() if part in (*expected, "again")} == expected


def test_a_failure_that_costs_nothing_and_one_before_the_first_step() -> None:
    record = begun()
    record.fail(109.5, action="ignore")
    record.row(3, 110)
    assert "leaving" not in record.parts()
    early = Record()
    early.begin(100)
    early.fail(110)
    early.event("failed", 111, step=0)
    assert early.parts() == {"start": 10.0, "leaving": 1.0}


@pytest.mark.parametrize(("end", "down_s"), [("stopped", 0.0), ("finished", 0.0), ("failed", 500.0), (None, 500.0)])
def test_time_without_a_controller_counts_unless_somebody_has_meant_it(end: str | None, down_s: float) -> None:
    """The next controller may be on another machine, whose clock has begun anew."""
    record = begun()
    if end is not None:
        record.event(end, 109, step=2)
    record.fence = 2
    clocks = {"monotonic_s": 7.0, "wall": wall(609), "fence": 2}
    record.events.append(from_json({"kind": "created", "generation": 2, "job": "toy", **clocks}))
    found = of(record)
    assert found.parts["down"] == down_s
    assert found.wall_s == pytest.approx(9 + down_s)


def test_a_resume_from_a_checkpoint_takes_steps_back() -> None:
    record = begun()
    record.row(3, 110)
    record.fence = 2
    record.begin(200, 2, step=1)
    found = of(record)
    assert (found.steps_lost, found.steps_again) == (2, 0), "they are computed again later, or never"
    assert (found.parts["again"], found.parts["training"]) == (2.0, 1.0)
    record.row(2, 210, 2)
    assert (of(record).steps_lost, of(record).steps_again) == (2, 1)


def test_a_step_under_way_is_training_for_as_long_as_is_usual() -> None:
    meter = GoodputMeter()
    record = begun()
    follow(meter, record.events, record.rows)
    assert meter.so_far(110).parts["training"] == 3.0
    late = meter.so_far(209).parts
    assert (late["training"], late["noticing"]) == (11.0, 91.0)
    assert meter.so_far().wall_s == 9.0


@pytest.mark.parametrize("make", [finished_run, failed_run, running_run])
def test_a_record_sums_to_its_whole_time(make: Any, tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    events, rows = run.read_events(), run.read_metrics()
    found, course, moments = course_of(events, rows)
    whole = events[-1].monotonic_s - events[0].monotonic_s
    assert moments[-1] == pytest.approx(whole)
    assert found.wall_s == pytest.approx(max(whole, rows[-1]["monotonic_s"] - events[0].monotonic_s))
    assert found.steps_lost == len(rows) - len(run.latest_metrics())
    again_s = sum(one.end_s - one.start_s for one in course.stretches if one.part == "again")
    assert again_s >= found.parts["again"] - 1e-6 > 0


def test_rows_of_an_earlier_release_are_placed_by_the_wall_clock() -> None:
    record = begun()
    for row in record.rows:
        del row["monotonic_s"]
    assert record.parts() == {"start": 5.0, "training": 2.0, "saving": 0.5, "between": 0.5, "validation": 1.0}


def test_a_record_of_nothing_has_no_goodput() -> None:
    assert of(Record()) == Goodput(parts=dict.fromkeys(PARTS, 0.0))
    assert of(Record()).share is None


def test_rows_of_a_history_that_is_lost_are_no_time_of_the_run() -> None:
    """events.jsonl was emptied: what lies between its rows and the resume is not known to be anything."""
    record = Record()
    record.row(1, at=5)
    record.row(2, at=6)
    record.fence = 2
    record.begin(at=1000, generation=2, step=2)
    record.row(3, at=1010, generation=2)
    parts = record.parts()
    assert sum(parts.values()) == pytest.approx(10)
    assert parts["training"] == pytest.approx(1)
    assert "down" not in parts
