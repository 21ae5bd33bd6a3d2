"""What an agent sees of a process: how long it has not changed, and no longer than it has looked itself."""

from __future__ import annotations

from dougong.control.progress import WorkerProgress, WorkerSigns
from dougong.launcher.agent.signs import ProcessWatch


def progress(sequence: int, pulse: int) -> WorkerProgress:
    return WorkerProgress(sequence, 1, "forward", 0, pulse)


def test_what_stays_the_same_is_counted_from_the_first_look_on() -> None:
    watch = ProcessWatch(0.1)
    assert watch.look(progress(1, 1), "R", 10.0) == WorkerSigns("R")
    seen = watch.look(progress(1, 2), "R", 10.2)
    assert (round(seen.state_s, 3), round(seen.still_s, 3), seen.silent_s) == (0.2, 0.2, 0.0)
    seen = watch.look(progress(2, 2), "T", 10.3)
    assert (seen.state, seen.state_s, seen.still_s, round(seen.silent_s, 3)) == ("T", 0.0, 0.0, 0.1)


def test_a_look_that_comes_late_is_no_stillness_of_the_process() -> None:
    watch = ProcessWatch(0.1)
    watch.look(progress(1, 1), "T", 10.0)
    seen = watch.look(progress(1, 1), "T", 40.0)  # the agent was stopped for 30 s, or its machine
    assert round(seen.still_s, 3) == round(seen.state_s, 3) == 0.3


def test_a_process_without_a_pulse_is_not_called_silent() -> None:
    watch = ProcessWatch(0.1)
    watch.look(progress(1, 0), "S", 0.0)
    assert watch.look(progress(1, 0), "S", 0.1).silent_s == 0.0
