"""What workers say, where it is not what it was expected to be; tests/launcher/controller/test_departure.py has how a
generation is left."""

from __future__ import annotations

from typing import Any

from dougong.control.worker_messages import LinksProbed, StateFetched, StepValidated, WorkerLeft
from dougong.launcher.controller.actions import RecordStep
from dougong.launcher.controller.states import Running
from dougong.parallel.bridge.measured import MeasuredLink
from tests.launcher.controller.machine import ALL, exits, running, step, worker
from tests.launcher.controller.test_departure import left, there


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


def test_links_are_recorded_and_slow_ones_warned_of() -> None:
    links = (MeasuredLink("east/0", "west/0", ("east", "west"), "host", 2e-4, 5e6),)
    made = running().play(worker(ALL[0], LinksProbed(links)))
    assert made.event("links").links == links
    assert made.event("warning").text.startswith("a slow link: east/0 - west/0: host, 5 MB/s")


def test_the_row_of_a_step_whose_teller_was_lost_is_recorded_once_by_those_who_have_kept_it() -> None:
    """East/0 told step 7, and died behind step 8, which the others hold."""
    made = running().play(there(1, east_0=10, east_1=11, west_0=12), step(7), exits("east/0", -9))
    made.play(left("east/1", "west/0", held=8), there(2, east_0=19, east_1=11, west_0=12)).clear()
    kept = tuple({"step": number, "generation": 1, "loss": 1.0} for number in (7, 8, 9))
    rows = {"east/0": (), "east/1": kept, "west/0": kept}
    made.play([worker(name, StateFetched(8, {}, 0.1, rows[name]), 2) for name in ALL])
    recorded = [action.row for action in made.actions if isinstance(action, RecordStep)]
    assert recorded == [{"step": 8, "generation": 1, "loss": 1.0}]
    made.play(step(9, 2))
    recorded = [action.row["step"] for action in made.actions if isinstance(action, RecordStep)]
    assert recorded == [8, 9] and made.facts.recorded == 9


def test_the_row_of_a_step_waits_for_its_validation_that_is_made_up() -> None:
    """Also where another fault cuts that short, and who had kept the row is lost."""
    made = running().play(there(1, east_0=10, east_1=11, west_0=12), step(7), exits("east/0", -9))
    made.play(left("east/1", "west/0", held=8), there(2, east_0=19, east_1=11, west_0=12)).clear()
    kept: tuple[dict[str, Any], ...] = ({"step": 8, "generation": 1, "loss": 1.0},)
    rows = {"east/0": (), "east/1": kept, "west/0": ()}
    made.play([worker(name, StateFetched(8, {}, 0.1, rows[name], validates=True), 2) for name in ALL])
    assert "RecordStep" not in made.names() and made.facts.recorded == 7
    made.play(exits("east/1", -9, 2), left("east/0", "west/0", held=8, generation=2))
    assert made.facts.recorded == 7 and made.state == Running(3)
    made.play([worker(name, StateFetched(8, {}, 0.1, (), validates=True), 3) for name in ALL])
    made.play(worker("east/0", StepValidated(8, 2.5, 0.1), 3), worker("east/0", StepValidated(8, 2.5, 0.1), 3))
    recorded = [action.row for action in made.actions if isinstance(action, RecordStep)]
    assert recorded == [{"step": 8, "generation": 1, "loss": 1.0, "val_loss": 2.5, "validate_s": 0.1}]
    assert made.facts.recorded == 8 and "first_step" not in made.kinds()


def test_a_validation_that_was_made_up_tells_each_source() -> None:
    made = running().play(there(1, east_0=10, east_1=11, west_0=12), step(7), exits("east/0", -9))
    made.play(left("east/1", "west/0", held=8), there(2, east_0=19, east_1=11, west_0=12)).clear()
    row: dict[str, Any] = {"step": 8, "generation": 1}
    made.play([worker(name, StateFetched(8, {}, 0.1, (row,), validates=True), 2) for name in ALL])
    made.play(worker("east/0", StepValidated(8, 2.5, 0.1, {"mixture.0": 2.0}), 2))
    (recorded,) = [action.row for action in made.actions if isinstance(action, RecordStep)]
    assert recorded["val_by_source"] == {"mixture.0": 2.0} and recorded["val_loss"] == 2.5


def test_who_has_come_to_the_end_of_a_validation_has_the_whole_row() -> None:
    made = running().play(there(1, east_0=10, east_1=11, west_0=12), step(7), exits("east/0", -9))
    made.play(left("east/1", "west/0", held=8), there(2, east_0=19, east_1=11, west_0=12)).clear()
    row: dict[str, Any] = {"step": 8, "generation": 1}
    rows = {"east/0": (), "east/1": (row,), "west/0": ({**row, "val_loss": 2.5},)}
    made.play([worker(name, StateFetched(8, {}, 0.1, rows[name], validates=True), 2) for name in ALL])
    made.play(worker("east/0", StepValidated(8, 2.5, 0.1), 2))
    recorded = [action.row for action in made.actions if isinstance(action, RecordStep)]
    assert recorded == [{**row, "val_loss": 2.5}] and made.facts.recorded == 8


def test_a_row_that_was_told_is_not_recorded_again() -> None:
    made = running().play(there(1, east_0=10, east_1=11, west_0=12), step(7), step(8), exits("east/0", -9))
    made.play(left("east/1", "west/0", held=7), there(2, east_0=19, east_1=11, west_0=12)).clear()
    kept = ({"step": 7, "generation": 1, "loss": 1.0},)
    made.play([worker(name, StateFetched(7, {}, 0.1, kept), 2) for name in ALL])
    assert "RecordStep" not in made.names() and made.facts.recorded == 7


def test_an_end_before_the_failure_is_decided_is_no_lost_survivor() -> None:
    made = running().play(step(1), [exits("east/1", -9)])
    assert "survivor_lost" not in made.kinds()
