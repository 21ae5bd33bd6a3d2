"""Threads of messages: order, and their end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest
from dougong.parallel.comm.threads import MessageThread, Waits


def test_one_thing_comes_after_another_and_errors_are_the_askers() -> None:
    thread, order = MessageThread("test"), list[int]()
    futures = [thread.submit(order.append, number) for number in range(5)]
    wrong = thread.submit(int, "x")
    assert [future.result(10) for future in futures] == [None] * 5
    assert order == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError):
        wrong.result(10)
    thread.close()
    assert thread.await_end(0)


def test_what_is_under_way_is_waited_for_and_what_is_not_is_never_begun() -> None:
    thread, may_end = MessageThread("test"), threading.Event()
    under_way = thread.submit(may_end.wait, 60)
    never = thread.submit(may_end.wait, 60)
    thread.close()
    assert not thread.await_end(0.01)
    may_end.set()
    assert thread.await_end(10)
    assert under_way.result(0)
    with pytest.raises(CancelledError):
        never.result(0)


def test_a_guarded_future_has_the_outcome_of_the_other() -> None:
    waits = Waits()
    outcomes: list[Future[int]] = [Future() for _ in range(3)]
    guarded = [waits.guard(future) for future in outcomes]
    outcomes[0].set_result(7)
    outcomes[1].set_exception(ZeroDivisionError())
    outcomes[2].cancel()
    assert guarded[0].result(0) == waits.guard(outcomes[0]).result(0) == 7
    with pytest.raises(ZeroDivisionError):
        guarded[1].result(0)
    with pytest.raises(CancelledError):
        guarded[2].result(0)


def test_every_wait_ends_with_the_generation_and_what_is_waited_for_goes_on() -> None:
    waits, done, late = Waits(), Future[int](), Future[int]()
    first, second = waits.guard(late), waits.guard(late)
    waits.end(KeyError("first"))
    waits.end(KeyError("second"))
    for guarded in (first, second, waits.guard(late), waits.guard(done)):
        with pytest.raises(KeyError, match="first"):
            guarded.result(0)
    late.set_result(3)
    assert late.result(0) == 3
