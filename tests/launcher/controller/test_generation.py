"""What a generation's messages add up to: done, failed, hung, lost, stalled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from dougong.control.messages import Heartbeat, WorkerExited
from dougong.control.progress import WorkerProgress
from dougong.control.worker_messages import WorkerRaised
from dougong.fault.diagnosis import CONSEQUENCE_S
from dougong.launcher.controller.generation import Generation
from dougong.parallel.plan import Inventory, Seat, make_plan


@pytest.fixture
def generation() -> Generation:
    seats = [Seat(f"east/{i}", "east", "both", "n", f"cpu:{i}") for i in range(2)]
    return Generation(3, make_plan(2, Inventory("toy", (), (), 4, ()), seats), start_step=5)


def exit_of(worker: str, code: int = 0, **more: Any) -> WorkerExited:
    return WorkerExited(3, worker, "train", code, **more)


def test_done_needs_both_the_word_and_the_end(generation: Generation) -> None:
    for worker in generation.mates:
        generation.note_done(worker)
        assert not generation.all_done
        assert generation.note_exit(exit_of(worker)) is None
    assert generation.all_done
    assert not generation.is_settled(time.monotonic())


def test_an_end_without_the_word_is_a_failure(generation: Generation) -> None:
    assert generation.note_exit(exit_of("east/1")) is not None
    assert generation.is_settled(generation.first_fact_at)


def test_an_end_that_we_asked_for_is_not(generation: Generation) -> None:
    assert generation.note_exit(exit_of("east/1", -9, asked=True)) is None
    assert not generation.facts


def test_an_error_and_the_exit_after_it_are_one_failure(generation: Generation) -> None:
    error = WorkerRaised("ValueError", ("ValueError",), "x")
    assert generation.note_error("east/0", error) is not None
    assert generation.note_exit(exit_of("east/0", 1)) is None
    assert len(generation.facts) == 1


def test_after_a_failure_only_those_who_failed_are_listened_to(generation: Generation) -> None:
    assert generation.is_speaking("east/0", 3)
    assert not generation.is_speaking("east/0", 2)
    generation.note_exit(exit_of("east/1", -9))
    assert generation.is_speaking("east/1", 3)
    assert not generation.is_speaking("east/0", 3)


def test_an_echo_settles_after_a_while(generation: Generation) -> None:
    error = WorkerRaised("RuntimeError", (), "Connection reset by peer")
    generation.note_error("east/0", error)
    assert not generation.is_settled(generation.first_fact_at)
    assert generation.is_settled(generation.first_fact_at + CONSEQUENCE_S)


def test_a_lost_agent_takes_its_workers_but_not_those_that_had_ended(generation: Generation) -> None:
    generation.note_done("east/0")
    generation.note_exit(exit_of("east/0"))
    facts = generation.note_lost(("east/0", "east/1", "west/0"), "node down")
    assert [(f.worker, f.lost) for f in facts] == [("east/1", "node down")]
    assert generation.all_exited
    assert generation.note_lost(("east/1",), "again") == []


def test_the_late_ones_are_hung(generation: Generation) -> None:
    generation.note_done("east/0")
    assert [f.worker for f in generation.note_hung("late")] == ["east/1"]
    assert generation.note_hung("late") == []


def test_a_stall_is_told_once_and_again_after_movement(generation: Generation) -> None:
    def beat(sequence: int) -> None:
        generation.note_beat(Heartbeat(3, sequence, {"east/0": WorkerProgress(sequence, 6, "forward", 1)}))

    beat(1)
    for mate in generation.mates.values():
        mate.moved_at -= 100
    assert [m.worker.name for m in generation.newly_stalled(50)] == ["east/0", "east/1"]
    assert generation.newly_stalled(50) == []
    beat(1)
    assert generation.newly_stalled(50) == []
    beat(2)
    generation.mates["east/0"].moved_at -= 100
    assert [m.worker.name for m in generation.newly_stalled(50)] == ["east/0"]
    assert generation.mates["east/0"].describe()["phase"] == "forward"
