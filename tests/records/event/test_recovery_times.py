"""From when the parts of a recovery are counted."""

from __future__ import annotations

from dougong.control.worker_messages import DrillAnnounced
from tests.launcher.controller.machine import Passes, exits, found, killed, raises, running, step, worker


def test_times_are_since_the_first_sign() -> None:
    made = running().play(step(7), raises("east/0", "PeerError"), Passes(0.25), exits("east/1", -9), Passes(0.5))
    made.play(killed("east/0", "west/0"), Passes(1.0), found(5), Passes(2.0), step(6, 2))
    over = made.event("recovered")
    times = (over.noticed_s, over.decided_s, over.left_s, over.begun_s, over.first_step_s)
    assert times == (0.0, 0.25, 0.75, 1.75, 3.75)
    assert (over.formed_s, over.fetched_s, over.step) == (None, None, 5)


def test_a_drill_tells_when_the_fault_was() -> None:
    made = running().play(worker("east/1", DrillAnnounced(7, "kill")), Passes(0.5), exits("east/1", -9))
    made.play(killed("east/0", "west/0"), found(5), step(6, 2))
    over = made.event("recovered")
    assert (over.noticed_s, over.decided_s, over.left_s) == (0.5, 0.5, 0.5)
