"""What a generation's messages add up to: done, failed, hung, lost, stalled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dougong.control.messages import Heartbeat, WorkerExited
from dougong.control.progress import WorkerProgress
from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import Deadlines
from dougong.fault.culprit import Culprit
from dougong.fault.observation import AgentLost, Exited, Hung, NotStarted
from dougong.launcher.controller.inbound.generation import Generation
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.plan import Inventory, Seat, make_plan

LIMITS = Deadlines(consequence_s=1, stall_warning_s=50, last_worker_s=600)


@pytest.fixture
def generation() -> Generation:
    seats = [Seat(f"east/{i}", "east", "both", "n", f"cpu:{i}") for i in range(2)]
    return Generation.of_plan(3, make_plan(2, Inventory("toy", (), ("s",), 4, ()), seats), now=0.0)


def exit_of(worker: str, code: int = 0, **more: Any) -> WorkerExited:
    return WorkerExited(3, worker, "train", code, **more)


def raised(name: str) -> WorkerRaised:
    return WorkerRaised(name, (name, "Exception"), "x")


def test_done_needs_both_the_word_and_the_end(generation: Generation) -> None:
    for worker in generation.workers:
        generation.note_done(worker, 1.0)
        assert not generation.all_done
        generation.note_exit(exit_of(worker), 2.0)
    assert generation.all_done and generation.last_exit_at == 2.0
    assert not generation.is_settled(9.0, LIMITS)


def test_an_end_without_the_word_is_a_failure(generation: Generation) -> None:
    generation.note_exit(exit_of("east/1", oom=True, last_lines=("bye",)), 1.0)
    assert generation.failures == [Exited("east/1", 0, True, False, ("bye",))]
    assert generation.is_settled(1.0, LIMITS)


def test_an_end_that_we_asked_for_is_not(generation: Generation) -> None:
    generation.note_exit(exit_of("east/1", -9, asked=True), 1.0)
    assert not generation.failures


def test_a_process_that_could_not_be_begun_is_one(generation: Generation) -> None:
    generation.note_exit(exit_of("east/1", 1, text="cannot fork"), 1.0)
    assert generation.failures == [NotStarted("east/1", "cannot fork")]


def test_an_error_and_the_exit_after_it_are_one_failure(generation: Generation) -> None:
    generation.note_raised("east/0", raised("ValueError"), 1.0)
    generation.note_exit(exit_of("east/0", 1), 1.1)
    assert len(generation.failures) == 1


def test_after_a_failure_only_those_who_failed_are_heard(generation: Generation) -> None:
    assert generation.is_heard("east/0")
    generation.note_exit(exit_of("east/1", -9), 1.0)
    assert generation.is_heard("east/1")
    assert not generation.is_heard("east/0")


def test_a_lost_peer_settles_after_a_while(generation: Generation) -> None:
    generation.note_raised("east/0", raised("PeerError"), 5.0)
    assert not generation.is_settled(5.0, LIMITS)
    assert generation.is_settled(6.0, LIMITS)


def test_a_lost_agent_takes_its_workers_but_not_those_that_had_ended(generation: Generation) -> None:
    generation.note_done("east/0", 1.0)
    generation.note_exit(exit_of("east/0"), 1.0)
    lost = AgentLost(Culprit("agent", "east"), "node down", ("east/0", "east/1"))
    generation.note_lost(lost, 2.0)
    assert generation.failures == [replace(lost, workers=("east/1",))]
    assert generation.all_exited
    generation.note_lost(lost, 3.0)
    assert len(generation.failures) == 1


def test_the_late_ones_are_hung(generation: Generation) -> None:
    generation.note_done("east/0", 1.0)
    generation.note_time(600.0, LIMITS)
    assert not generation.failures
    for _ in range(2):
        generation.note_time(602.0, LIMITS)
    (hung,) = generation.failures
    assert isinstance(hung, Hung) and hung.worker == "east/1"


def test_a_stall_is_told_once_and_again_after_movement(generation: Generation) -> None:
    def beat(sequence: int, now: float) -> None:
        progress = WorkerProgress(sequence, 6, "forward", 1)
        generation.note_beat(Heartbeat(3, sequence, {"east/0": progress}), now)

    def stalled(now: float) -> list[str]:
        return [status.worker.name for status in generation.note_time(now, LIMITS)]

    beat(1, 1.0)
    assert stalled(52.0) == ["east/0", "east/1"]
    assert stalled(60.0) == []
    beat(1, 61.0)
    assert stalled(62.0) == []
    beat(2, 63.0)
    assert stalled(113.5) == ["east/0"]
    assert generation.workers["east/0"].describe().phase == "forward"


def test_a_worker_is_described_by_lists(generation: Generation) -> None:
    generation.note_forked("east/1", 4711)
    described = generation.workers["east/1"].describe()
    assert (described.pid, described.alive) == (4711, True)
    as_json = described.model_dump(mode="json")
    assert (as_json["lanes"], as_json["experts"]) == ([1], [[2, 3]])
    generation.note_all_ended()
    assert not generation.workers["east/1"].describe().alive


def test_a_stall_before_the_first_step_names_who_is_waited_for(generation: Generation) -> None:
    generation.note_beat(Heartbeat(3, 1, {"east/0": WorkerProgress(2, 0, "start", Arrival.AT_STORE)}), 1.0)
    texts = [generation.stall_text(status, LIMITS) for status in generation.note_time(52.0, LIMITS)]
    assert texts == [
        "no progress for 50 s, in start of step 0: it waits at the controller's store for east/1 on n",
        "no progress for 50 s, in start of step 0: it has not come to the controller's store",
    ]
    generation.note_beat(Heartbeat(3, 2, {"east/0": WorkerProgress(3, 1, "forward", 0)}), 53.0)
    assert generation.stall_text(generation.workers["east/0"], LIMITS) == "no progress for 50 s, in forward of step 1"
