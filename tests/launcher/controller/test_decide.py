"""Which failure is named as the cause of a run's end; tests/launcher/controller/test_state_machine.py has the rest."""

from __future__ import annotations

from tests.launcher.controller.machine import ALL, exits, found, killed, raises, running, step

ONCE = {"fault": {"max_restarts": 1}}
TWICE = {"fault": {"max_restarts": 2}}


def test_a_failure_that_the_run_got_over_is_not_blamed_for_its_end() -> None:
    killed_once = [step(1), exits("east/1", -9), *killed("east/0", "west/0"), found(5)]
    made = running(**ONCE).play(*killed_once, step(6, 2), exits("west/0", 3, 2))
    made.play(*killed("east/0", "east/1", generation=2))
    assert (made.outcome.generation, made.outcome.diagnosis and made.outcome.diagnosis.worker) == (2, "west/0")
    assert "and no error (the last of 2 failures); fault.max_restarts" in str(made.outcome.error)
    # Without a step in between they are one trouble, and the first has begun it.
    made = running(**TWICE).play(*killed_once, step(6, 2), exits("west/0", 3, 2))
    made.play(*killed("east/0", "east/1", generation=2), found(5), exits("east/0", -11, 3))
    made.play(*killed("east/1", "west/0", generation=3))
    assert (made.outcome.generation, made.outcome.diagnosis and made.outcome.diagnosis.worker) == (2, "west/0")
    assert "(number 2 of 3 failures; the last: east/0: crash: SIGSEGV" in str(made.outcome.error)


def test_a_mistake_ends_a_run_whatever_went_before() -> None:
    made = running().play(exits("east/1", -9), *killed("east/0", "west/0"), found(5))
    made.play(raises("east/0", "DataError", generation=2), *killed(*ALL, generation=2))
    assert (made.outcome.generation, made.outcome.diagnosis and made.outcome.diagnosis.kind) == (2, "data")
    assert "(the last of 2 failures); a data error would come again" in str(made.outcome.error)
