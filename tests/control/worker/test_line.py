"""A worker's line, with the agent's end in the hands of this test."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from dougong.control.channel import Channel
from dougong.control.messages import EndAgent, JoinGeneration, LeaveGeneration, encode
from dougong.control.tasks import TrainTask
from dougong.control.worker.line import WorkerLine
from dougong.control.worker_messages import StoreReply, StoreRequest, WorkerWarning
from dougong.deadlines import DEADLINES
from dougong.errors import PeerError
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Seat, make_plan
from tests.launcher.toyrun import toy_job, wait_for

JOB = Job.model_validate(toy_job())
PLAN = make_plan(4, Inventory("toy", (), (), 16, ()), [Seat("east/0", "east", "both", "n", "cpu:0")])
JOIN = JoinGeneration(2, TrainTask("a:b", JOB, PLAN, "/runs/toy", console="east/0"), "10.0.0.2")
SHORT = dataclasses.replace(DEADLINES, await_leave_s=0.05, rejoin_s=0.05)


class Ends:
    """Both ends of one line, in generation 1."""

    def __init__(self) -> None:
        near, self.raw = socket.socketpair()
        self.agent = Channel(self.raw, "the worker", DEADLINES)
        self.line = WorkerLine(Channel(near, "agent", DEADLINES), DEADLINES)
        self.line.begin(1)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.agent.close()


def beside(call: Callable[[], Any]) -> Future[Any]:
    """Its result, from a thread of its own."""
    return ThreadPoolExecutor(1).submit(call)


def question(number: int) -> StoreRequest:
    return StoreRequest(number, "get", ("key",))


def test_what_the_worker_says_arrives(ends: Ends) -> None:
    ends.line.send(WorkerWarning("hot"))
    assert ends.agent.receive(10) == WorkerWarning("hot")


def test_a_worker_that_is_told_to_leave_is_freed_and_then_joins_the_next(ends: Ends) -> None:
    freed = threading.Event()
    ends.line.free_by(freed.set)
    assert not ends.line.leave_requested
    ends.agent.send(LeaveGeneration(1))
    assert freed.wait(10)
    ends.line.await_leave()
    assert ends.line.leave_requested
    ends.agent.send(JOIN)
    assert ends.line.await_join() == JOIN
    ends.line.begin(2)
    assert not ends.line.leave_requested


def test_who_has_a_way_to_be_freed_too_late_is_freed_at_once(ends: Ends) -> None:
    ends.agent.send(LeaveGeneration(1))
    ends.line.await_leave()
    freed = threading.Event()
    ends.line.free_by(freed.set)
    assert freed.is_set()


def test_an_order_to_leave_an_older_generation_is_of_no_account(ends: Ends) -> None:
    ends.line.begin(3)
    freed = threading.Event()
    ends.line.free_by(freed.set)
    ends.agent.send(LeaveGeneration(2))
    ends.agent.send(LeaveGeneration(3))
    assert freed.wait(10)
    assert ends.line.leave_requested


def test_a_generation_may_be_over_before_its_worker_has_begun_it(ends: Ends) -> None:
    ends.agent.send(LeaveGeneration(1))
    ends.agent.send(JOIN)
    ends.agent.send(LeaveGeneration(2))
    assert ends.line.await_join() == JOIN
    ends.line.begin(2)
    ends.line.await_leave()


def test_a_way_to_be_freed_that_fails_leaves_the_line_alive(ends: Ends, capsys: pytest.CaptureFixture[str]) -> None:
    ends.line.free_by(lambda: [][0])
    ends.agent.send(LeaveGeneration(1))
    ends.agent.send(JOIN)
    assert ends.line.await_join() == JOIN
    assert "IndexError" in capsys.readouterr().err


def test_a_question_has_its_own_answer(ends: Ends) -> None:
    first = beside(lambda: ends.line.ask(question, 30))
    assert ends.agent.receive(10) == StoreRequest(1, "get", ("key",))
    second = beside(lambda: ends.line.ask(question, 30))
    assert ends.agent.receive(10) == StoreRequest(2, "get", ("key",))
    ends.agent.send(StoreReply(9, "nobody asked"))
    ends.agent.send(StoreReply(2, "two"))
    ends.agent.send(StoreReply(1, "one"))
    assert first.result(10) == StoreReply(1, "one")
    assert second.result(10) == StoreReply(2, "two")


def test_who_waits_for_an_answer_is_freed_too(ends: Ends) -> None:
    asked = beside(lambda: ends.line.ask(question, 30))
    ends.agent.receive(10)
    ends.agent.send(LeaveGeneration(1))
    with pytest.raises(PeerError, match="generation 1 has been ended"):
        asked.result(10)


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        (lambda line: line.await_leave(), "0.05 s for word to leave generation 1"),
        (lambda line: line.await_join(), "0.05 s for a generation after 1"),
        (lambda line: line.ask(question, 0.05), "0.05 s for an answer"),
    ],
)
def test_nobody_waits_for_ever(wait: Callable[[WorkerLine], Any], words: str) -> None:
    near, far = socket.socketpair()
    line = WorkerLine(Channel(near, "agent", DEADLINES), SHORT)
    line.begin(1)
    with far, pytest.raises(TimeoutError, match=words):
        wait(line)


def test_everybody_who_waits_hears_that_the_agent_is_gone(ends: Ends) -> None:
    waits = [beside(ends.line.await_join), beside(ends.line.await_leave), beside(lambda: ends.line.ask(question, 30))]
    ends.agent.receive(10)
    ends.agent.close()
    for wait in waits:
        with pytest.raises(EOFError, match="the agent is gone"):
            wait.result(10)


def test_what_is_malformed_or_not_for_a_worker_is_passed_over(ends: Ends, capsys: pytest.CaptureFixture[str]) -> None:
    ends.raw.sendall(b"nonsense\n" + encode(EndAgent()) + encode(LeaveGeneration(1)))
    wait_for(lambda: ends.line.leave_requested, "the order behind them")
    said = capsys.readouterr().err
    assert "nonsense" in said and "end_agent is not for a worker" in said
