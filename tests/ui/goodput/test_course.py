"""The course of a run: stretches without gaps, painted anew where steps come again."""

from __future__ import annotations

from dougong.ui.goodput.course import Course, Stretch


def test_steps_and_what_is_between_them_are_one_stretch() -> None:
    course = Course()
    for part, seconds in (("start", 5), ("training", 1), ("saving", 0), ("between", 1), ("training", 1)):
        course.add(part, seconds)  # type: ignore[arg-type]
    assert course.stretches == [Stretch("start", 0, 5), Stretch("training", 5, 8)]


def test_what_comes_again_is_painted_from_the_first_lost_step_on() -> None:
    course = Course()
    for part, seconds in (("start", 5), ("training", 4), ("leaving", 1), ("training", 2), ("down", 1)):
        course.add(part, seconds)  # type: ignore[arg-type]
    course.repaint(7)
    assert course.stretches == [
        Stretch("start", 0, 5),
        Stretch("training", 5, 7),
        Stretch("again", 7, 9),
        Stretch("leaving", 9, 10),
        Stretch("again", 10, 12),
        Stretch("down", 12, 13),
    ]
    course.repaint(5)
    assert course.stretches[1] == Stretch("again", 5, 9)
