"""The strip of a run's time: its parts, its marks, and limits on what is drawn."""

from __future__ import annotations

import re
from pathlib import Path

from dougong.records.status import Goodput
from dougong.ui.goodput.course import Course
from dougong.ui.history import read_history
from dougong.ui.report.fault_row import FaultRow
from dougong.ui.report.faults import fault_rows
from dougong.ui.report.timeline import draw_timeline, time_parts
from tests.ui.recorded import finished_run


def fault(run_s: float, look: str = "fault") -> FaultRow:
    return FaultRow(0, run_s, "", "crash", "east/1", look=look)  # type: ignore[arg-type]


def course(seconds: float) -> Course:
    found = Course()
    found.add("start", seconds / 4)
    found.add("training", 3 * seconds / 4)
    return found


def test_parts_have_their_share_and_those_of_no_time_are_left_out() -> None:
    parts = time_parts(Goodput(parts={"training": 3.0, "start": 1.0, "down": 0.0}))
    assert [(part.name, part.share, part.width) for part in parts] == [
        ("training", "75.0 %", 75.0),
        ("start-up", "25.0 %", 25.0),
    ]
    assert time_parts(Goodput()) == []


def test_every_stretch_and_fault_of_a_run_is_drawn(tmp_path: Path) -> None:
    history = read_history(finished_run(tmp_path / "run"))
    drawn = draw_timeline(history.course, fault_rows(history))
    assert drawn is not None
    looks = re.findall(r'class="part (\w+)"', drawn)
    assert set(looks) == {"start", "training", "again", "leaving", "restoring"} & set(looks)
    assert {"start", "training", "again"} <= set(looks)
    assert "<title>1: east/1 crash</title>" in drawn


def test_neighbours_share_a_label() -> None:
    drawn = draw_timeline(course(100), [fault(10), fault(10.2), fault(10.4, "open"), fault(90, "mild")])
    assert drawn is not None
    assert re.findall(r'class="fault middle">([^<]*)<', drawn) == ["1–3", "4"]
    assert drawn.count('class="fault open"') == drawn.count('class="fault mild"') == 1


def test_ticks_are_round_and_few_for_a_second_as_for_a_year() -> None:
    for seconds, last in ((1.0, "1.0 s"), (5400.0, "1:30:00"), (3e7, None)):
        drawn = draw_timeline(course(seconds), [])
        assert drawn is not None
        labels = re.findall(r'class="tick[^"]*">([^<]*)<', drawn)
        assert 2 <= len(labels) <= 12 and (last is None or labels[-1] == last)


def test_a_course_of_many_stretches_is_drawn_with_few() -> None:
    found = Course()
    for _ in range(20_000):
        found.add("training", 1.0)
        found.add("leaving", 0.01)
    drawn = draw_timeline(found, [])
    assert drawn is not None and drawn.count("<rect") < 2200


def test_before_any_time_went_by_there_is_nothing() -> None:
    assert draw_timeline(Course(), []) is None
