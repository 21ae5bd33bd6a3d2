"""Which failure is named as the cause of a run's end, and that a stop always ends one;
tests/launcher/controller/test_state_machine.py has the rest."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.control.worker_messages import SaveFailed, WorkerWarning
from dougong.deadlines import DEADLINES
from dougong.errors import DeviceError, DougongError, PlanError, RecordError, StorageError
from dougong.launcher.controller.actions import CommitCheckpoint
from dougong.launcher.controller.config import ResumePoint
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.items import CommitFailed, SignalReceived, TaskFailed
from dougong.launcher.controller.states import Ended, Recovering
from tests.launcher.controller.machine import (
    ALL,
    MODEL,
    START,
    UP_TO_JOIN,
    UP_TO_MODEL,
    UP_TO_READY,
    Joins,
    Leaves,
    Machine,
    Passes,
    Step,
    committed,
    done,
    exits,
    found,
    killed,
    machine,
    moves,
    part,
    raises,
    running,
    step,
    with_deadlines,
    worker,
)

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


def test_a_failure_on_another_machine_names_it() -> None:
    made = machine(**ONCE)
    made.nodes["west"] = "node1"
    made.play(START, step(1)).clear()
    made.play(exits("west/0", 3), *killed("east/0", "east/1"), found(5), exits("west/0", 3, 2))
    made.play(*killed("east/0", "east/1", generation=2))
    for event in made.events:
        assert getattr(event, "node", "node1") == "node1"
    assert str(made.outcome.error).startswith("west/0 on node1: crash: ended with exit status 3")
    made = machine()
    made.nodes["west"] = "node1"
    made.play(START).clear().play(worker("west/0", WorkerWarning("slow disk")))
    assert made.event("warning").text == "slow disk (on node1)"
    # Where all is on one machine nobody asks which.
    made = running(**ONCE).play(exits("west/0", 3), *killed("east/0", "east/1"), found(5), exits("west/0", 3, 2))
    made.play(*killed("east/0", "east/1", generation=2))
    assert str(made.outcome.error).startswith("west/0: crash: ended with exit status 3")


def not_committed(number: int) -> list[Step]:
    """A checkpoint of that step is whole, and the storage is full."""
    return [*[part(name, number) for name in ALL], CommitFailed(number, StorageError("full"))]


def test_without_any_checkpoint_the_second_commit_that_fails_ends_the_run() -> None:
    made = running().play(not_committed(5))
    assert made.states == [] and made.event("checkpoint_failed").in_a_row == 1
    made.play(step(6), not_committed(10))
    assert made.states == ["FAILED"] and made.outcome.status == 1
    assert str(made.outcome.error) == "no checkpoint yet (2 in a row failed): full"


def test_with_a_checkpoint_a_run_trains_on_says_so_each_time_and_does_not_end_well() -> None:
    made = running().play([part(name, 5) for name in ALL], committed(5))
    made.play(not_committed(10), not_committed(15), not_committed(20))
    assert made.kinds().count("checkpoint_failed") == 3 and made.states == []
    made.play(done(*ALL))
    assert made.states == ["FAILED"] and made.outcome.status == 1
    assert str(made.outcome.error) == "no checkpoint since step 5 (3 in a row failed): full"


def refused(number: int) -> CommitFailed:
    error = StorageError("full")
    error.__cause__ = OSError(28, "No space left on device")
    return CommitFailed(number, error)


def commits(made: Machine) -> list[int]:
    return [action.step for action in made.actions if isinstance(action, CommitCheckpoint)]


@pytest.mark.parametrize("error", [DeviceError("no driver"), PlanError("no room"), RecordError("damaged")])
def test_what_is_bad_input_at_a_start_is_a_failure_of_a_run_that_has_begun(error: DougongError) -> None:
    assert machine().play(UP_TO_JOIN, TaskFailed(error)).outcome.status == 2
    made = running().play(step(1), TaskFailed(error))
    assert (made.outcome.error, made.outcome.status) == (error, 1)


def test_a_controller_that_follows_another_one_goes_on_with_a_run_that_has_begun() -> None:
    made = machine()
    made.facts = RunFacts.at(ResumePoint(3, 5, died=(1.0, 2.0)))
    assert made.play(UP_TO_JOIN, TaskFailed(DeviceError("no driver"))).outcome.status == 1


def test_a_last_commit_that_storage_refuses_is_tried_again() -> None:
    """The run is done, and what it has trained would be lost."""
    made = running().play([part(name, 5) for name in ALL], committed(5), step(20))
    made.play([part(name, 20) for name in ALL], done(*ALL), refused(20))
    assert made.states == [] and commits(made) == [5, 20]
    made.play(Passes(DEADLINES.storage_retry_s + 0.2), refused(20))
    assert commits(made) == [5, 20, 20] and made.kinds().count("checkpoint_failed") == 1
    made.play(Passes(DEADLINES.storage_retry_s + 0.2), committed(20))
    assert made.states == ["FINISHED"]


def test_a_last_commit_that_storage_goes_on_refusing_is_a_failure() -> None:
    made = with_deadlines(running(), commit_checkpoint_s=0.5)
    made.play([part(name, 5) for name in ALL], committed(5), step(20))
    made.play([part(name, 20) for name in ALL], done(*ALL), refused(20), Passes(0.8))
    assert made.states == ["FAILED"]
    assert str(made.outcome.error) == "no checkpoint since step 5: full"


def test_a_part_that_storage_refuses_costs_a_checkpoint_and_no_step() -> None:
    made = running().play([part(name, 5) for name in ALL], committed(5))
    made.play(step(10), worker("east/0", SaveFailed(10, "full")), part("east/1", 10))
    assert made.states == [] and made.event("checkpoint_failed").reason == "east/0: full"
    made.play(step(20), [part(name, 20) for name in ALL], committed(20), done(*ALL))
    assert made.states == ["FINISHED"]


def test_a_checkpoint_from_before_a_resume_is_one() -> None:
    made = machine().play(UP_TO_MODEL, MODEL, found(5)).clear()
    made.play(not_committed(10), not_committed(15))
    assert made.states == []


# A stop always ends

SIGINT = SignalReceived(2)
IN_STEP_12 = [step(11), *[moves(name, 1, 12, "forward") for name in ALL]]
LAST_STEP = [step(20), *[part(name, 20) for name in ALL], *done(*ALL)]
DIES = [step(5), exits("east/1", -9)]
BEFORE_A_STEP: dict[str, list[Any]] = {
    "BACKEND": [],
    "NODES": UP_TO_JOIN[:1],
    "PLACES": UP_TO_JOIN[:2],
    "JOIN": UP_TO_JOIN,
    "JOIN, one has come": [*UP_TO_JOIN, Joins("east")],
    "READY": UP_TO_READY,
    "MODEL": UP_TO_MODEL,
    "FINGERPRINTS": [*UP_TO_MODEL, MODEL],
    "the model is built": START,
    "the model is built on some": [*START, moves("east/0", 1, 1, "forward")],
    "WORKERS_END": [*START, *DIES],
    "CHECKPOINT": [*START, *DIES, *killed("east/0", "west/0")],
    "PLACES again": [*START, Leaves("west"), *killed("east/0", "east/1")],
}
IN_A_STEP: dict[str, tuple[list[Any], float, str]] = {
    # what is so, after how long without a movement a stop ends it, and how
    "nobody moves": (IN_STEP_12, 60, "STOPPED"),
    "some are done": ([*IN_STEP_12, *done("east/0", "east/1")], 60, "STOPPED"),
    "a worker writes": ([*IN_STEP_12, moves("west/0", 2, 12, "checkpoint")], 1800, "STOPPED"),
    "a checkpoint is committed": ([*IN_STEP_12, *[part(name, 10) for name in ALL]], 1800, "STOPPED"),
    "the last commit hangs": (LAST_STEP, 1800, "FAILED"),
}
SAVES_12 = [step(12), *[moves(name, 2, 12, "checkpoint") for name in ALL]]
REFUSED_ENDS = {
    "a part": [*IN_STEP_12, SIGINT, *SAVES_12, worker("west/0", SaveFailed(12, "full"))],
    "the commit": [*IN_STEP_12, SIGINT, *SAVES_12, *[part(name, 12) for name in ALL], *done(*ALL), refused(12)],
}


@pytest.mark.parametrize("given", REFUSED_ENDS.values(), ids=REFUSED_ENDS)
def test_a_last_save_that_is_refused_is_told_at_once_with_the_way_out(given: list[Any]) -> None:
    made = running().play([part(name, 5) for name in ALL], committed(5), given)
    assert made.event("waiting").text == made.facts.awaited == (
        "storage, for the last checkpoint (step 12); tries again, 1800 s (fault.deadlines.commit_checkpoint_s) at most;"
        " a second Ctrl-C or `dougong stop /run --now` ends the run without it (step-000005 is kept)"
    )  # fmt: skip
    made.play(Passes(0.6))
    assert made.kinds().count("waiting") == 1 and not isinstance(made.state, Ended)
    made.play(SIGINT)
    assert (made.outcome.state, made.outcome.status) == ("STOPPED", 130)


def test_a_part_of_the_last_checkpoint_that_is_refused_is_told_before_anybody_asks() -> None:
    """A run that is finishing: nobody has stopped it, and its workers try again."""
    made = running().play([part(name, 5) for name in ALL], committed(5))
    last = made.policy.job.steps
    saves = [moves(name, 2, last, "checkpoint") for name in ALL]
    made.play(step(last), saves, worker("west/0", SaveFailed(last, "full")))
    text = made.event("waiting").text
    assert text == made.facts.awaited and text.startswith(f"storage, for the last checkpoint (step {last}); tries")
    assert "Ctrl-C twice or `dougong stop /run --now` ends the run without it (step-000005 is kept)" in text
    made.play(Passes(0.6))
    assert made.kinds().count("waiting") == 1 and not isinstance(made.state, Ended)


def test_a_save_that_was_refused_before_the_last_step_is_not_waited_for() -> None:
    made = running().play([part(name, 5) for name in ALL], committed(5), step(10))
    made.play(worker("west/0", SaveFailed(10, "full")), IN_STEP_12, SIGINT, SAVES_12)
    assert "waiting" not in made.kinds()


@pytest.mark.parametrize("given", BEFORE_A_STEP.values(), ids=BEFORE_A_STEP)
def test_a_stop_before_there_is_a_step_ends_the_run_at_once(given: list[Any]) -> None:
    made = machine(takes_fingerprints=given[-1:] == [MODEL]).play(given, SIGINT)
    assert (made.outcome.state, made.outcome.status) == ("STOPPED", 130)


def test_a_stop_while_paths_are_tried_ends_the_run_at_once() -> None:
    made = machine()
    made.paths_pass = False
    made.play(UP_TO_READY, SIGINT)
    assert (made.outcome.state, made.outcome.status) == ("STOPPED", 130)


@pytest.mark.parametrize(("given", "limit_s", "state"), IN_A_STEP.values(), ids=IN_A_STEP)
def test_a_stop_that_is_not_met_ends_within_a_limit(given: list[Any], limit_s: float, state: str) -> None:
    made = running().play(given, SIGINT, Passes(limit_s - 1))
    assert not isinstance(made.state, Ended)
    made.play(Passes(2))
    assert (made.outcome.state, made.outcome.status) == (state, 130 if state == "STOPPED" else 1)


@pytest.mark.parametrize("given", [*[given for given, _, _ in IN_A_STEP.values()], [*IN_STEP_12, SIGINT, *DIES[1:]]])
def test_a_second_stop_ends_everything_at_once(given: list[Any]) -> None:
    made = running().play(given, SIGINT, *([] if SIGINT in given else [SIGINT]))
    assert (made.outcome.state, made.outcome.status) == ("STOPPED", 130)


def test_whoever_moves_gives_a_stop_more_time_and_what_is_given_up_is_told() -> None:
    made = running().play(IN_STEP_12, part("east/0", 10), part("east/1", 10), part("west/0", 10), committed(10))
    made.play(SIGINT, Passes(50), moves("east/1", 2, 12, "exchange"), Passes(50))
    assert not isinstance(made.state, Ended)
    made.play(Passes(11))
    told = made.event("step_given_up")
    assert (told.limit, told.checkpoint) == ("60 s (fault.deadlines.stop_step_s)", "step-000010")
    assert [(still.name, still.phase, still.step) for still in told.workers] == [
        ("east/0", "forward", 12), ("east/1", "exchange", 12), ("west/0", "forward", 12),
    ]  # fmt: skip


def test_an_agent_that_falls_silent_while_its_run_stops_ends_the_wait_and_is_named() -> None:
    made = running().play(IN_STEP_12, SIGINT, Passes(10.1, silent=("west",)), *killed("east/0", "east/1"))
    assert (made.outcome.state, made.outcome.status) == ("STOPPED", 130)
    assert made.event("diagnosis").culprit.name == "west"
    assert (made.event("decision").action, made.event("decision").reason) == (
        "stop", "the run is being stopped, so that nothing is begun anew"
    )  # fmt: skip


def test_what_would_come_again_fails_a_run_that_is_stopped_too() -> None:
    made = running().play(step(1), SIGINT, raises("east/1", "DataError"), *killed(*ALL))
    assert (made.outcome.state, made.outcome.status) == ("FAILED", 1)


def test_a_stop_while_recovering_does_not_cost_the_checkpoint_that_is_being_committed() -> None:
    parts = [part(name, 5) for name in ALL]
    made = running().play(step(5), parts, exits("east/1", -9), SIGINT, killed("east/0", "west/0"))
    assert isinstance(made.state, Recovering)
    made.play(committed(5))
    assert (made.outcome.state, made.outcome.status) == ("STOPPED", 130)
    assert made.kinds()[-2:] == ["stop_requested", "checkpoint_committed"]
