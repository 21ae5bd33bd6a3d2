"""What workers say, where it is not what it was expected to be; tests/launcher/controller/test_departure.py has how a
generation is left."""

from __future__ import annotations

from dougong.control.worker_messages import StateFetched, WorkerLeft
from tests.launcher.controller.machine import ALL, exits, running, step, worker


def test_what_an_older_generation_says_changes_nothing() -> None:
    made = running().play(worker("east/0", WorkerLeft(4), 7), worker("east/0", StateFetched(4, {}, 0.1), 7))
    assert made.facts.generation is not None and not made.facts.generation.survivors
    assert made.facts.step == 0


def test_the_state_is_news_when_the_last_worker_has_its_part() -> None:
    made = running().play([worker(name, StateFetched(5, {"checkpoint": 2}, 0.2), 1) for name in ALL[:2]])
    assert made.kinds() == [] and made.facts.step == 5
    made.play(worker(ALL[2], StateFetched(5, {"checkpoint": 4}, 0.7)))
    restored = made.event("state_restored")
    assert (restored.tiers, restored.seconds) == ({"checkpoint": 8}, 0.7)


def test_an_end_before_the_failure_is_decided_is_no_lost_survivor() -> None:
    made = running().play(step(1), [exits("east/1", -9)])
    assert "survivor_lost" not in made.kinds()
