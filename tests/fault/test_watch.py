"""What is told of suspicions: once when they begin, once when they were nothing, and who is given up."""

from __future__ import annotations

from dougong.control.progress import WorkerSigns
from dougong.deadlines import DEADLINES
from dougong.fault.culprit import Culprit
from dougong.fault.suspicion import WorkerView
from dougong.fault.watch import HealthWatch, Noticed

STEPS = 5


def look(watch: HealthWatch, *views: WorkerView) -> Noticed:
    return watch.look(views, (), DEADLINES)


def stopped(seconds: float, name: str = "east/0") -> WorkerView:
    return WorkerView(name, 7, "forward", 3, (), WorkerSigns("T", seconds, seconds, seconds))


def at_work(name: str = "east/0", still_s: float = 0.1, *awaited: str) -> WorkerView:
    return WorkerView(name, 7, "forward", 3, awaited, WorkerSigns("R", 0.1, still_s, 0.0))


def warm() -> HealthWatch:
    watch = HealthWatch()
    for _ in range(STEPS):
        look(watch, at_work(), at_work("east/1"))
        watch.times.step_done()
    return watch


def test_a_suspicion_is_told_when_it_begins_and_when_it_was_nothing() -> None:
    watch = warm()
    assert [one.why for one in look(watch, stopped(0.3)).begun] == ["stopped"]
    assert look(watch, stopped(1.5)) == Noticed()
    assert watch.health(stopped(1.5)) == "suspect: stopped for 1.5 s"
    assert look(watch, at_work()).ended == ((Culprit("worker", "east/0"), 1.5),)
    assert watch.health(at_work()) == "running"
    assert watch.health(at_work("east/1", 0.1, "east/0")) == "waits for east/0"


def test_who_has_been_stopped_for_too_long_is_given_up_and_nobody_who_waits_for_it() -> None:
    watch = warm()
    waits = at_work("east/1", 3.1, "east/0")
    noticed = look(watch, stopped(3.1), waits)
    assert [one.culprit.name for one in noticed.due] == ["east/0"]


def test_all_that_are_stopped_are_given_up_but_of_those_that_stand_still_one() -> None:
    both = look(warm(), stopped(3.1), stopped(3.2, "east/1")).due
    assert {one.culprit.name for one in both} == {"east/0", "east/1"}
    (first,) = look(warm(), at_work("east/0", 3.1), at_work("east/1", 3.2)).due
    assert first.culprit.name == "east/1"


def test_a_step_with_a_stopped_worker_teaches_nothing() -> None:
    watch = warm()
    look(watch, stopped(2.5))
    look(watch, at_work(still_s=2.5))
    watch.times.step_done()
    assert watch.times.limit_s("east/0", "forward", DEADLINES) == DEADLINES.hang_s


def test_what_comes_and_goes_is_told_ever_more_seldom() -> None:
    watch = warm()
    told = 0
    for _ in range(100):
        told += len(look(watch, stopped(0.3)).begun)
        told += len(look(watch, at_work()).ended)
    assert told == 2 * 11


def test_another_generation_has_other_processes() -> None:
    watch = warm()
    look(watch, stopped(1.0))
    watch.begin_generation()
    assert watch.present == ()
