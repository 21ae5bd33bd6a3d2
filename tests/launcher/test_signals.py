"""Signals that ask for something, and come one way or both."""

from __future__ import annotations

import os
import signal
import time

import pytest
from dougong.deadlines import DEADLINES
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import SignalReceived
from dougong.launcher.signals import asking, hear_passed_on, pass_on, signals_into


@pytest.mark.parametrize("number", sorted(asking()))
def test_signals_become_items_and_are_given_back(number: signal.Signals) -> None:
    before, inbox = signal.getsignal(number), Inbox()
    with signals_into(inbox):
        os.kill(os.getpid(), number)
        assert inbox.get(20) == SignalReceived(number)
    assert signal.getsignal(number) == before


INT, TERM = signal.SIGINT, signal.SIGTERM


def requests(*numbers: int, passed_on: tuple[int, ...] = ()) -> list[int]:
    """What is asked for when these come, and then these the other way."""
    inbox = Inbox()
    last = TERM if INT in (*numbers, *passed_on) else INT
    with signals_into(inbox):
        for number in numbers:
            os.kill(os.getpid(), number)
        for number in passed_on:
            pass_on(os.getpid(), number)
        os.kill(os.getpid(), last)
        found = []
        while (item := inbox.get(20)) != SignalReceived(last):
            assert isinstance(item, SignalReceived)
            found.append(item.number)
    return found


def test_what_a_batch_system_sends_to_a_command_and_to_its_controller_is_one_request() -> None:
    assert requests(TERM, passed_on=(TERM,)) == [TERM]
    assert requests(INT, passed_on=(INT,)) == [INT]
    assert requests(passed_on=(TERM,)) == requests(TERM) == [TERM]


def test_ctrl_c_twice_is_two_requests_whichever_way_it_comes() -> None:
    assert requests(INT, INT) == requests(passed_on=(INT, INT)) == [INT, INT]
    assert requests(INT, INT, passed_on=(INT,)) == [INT, INT]


def test_a_program_that_ends_another_one_twice_in_a_moment_asks_once() -> None:
    assert requests(TERM, TERM) == requests(passed_on=(TERM, TERM)) == [TERM]


def test_what_comes_long_after_is_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, begun = Inbox(), time.monotonic()
    with signals_into(inbox):
        os.kill(os.getpid(), TERM)
        assert inbox.get(20) == SignalReceived(TERM)
        monkeypatch.setattr(time, "monotonic", lambda: begun + 2 * DEADLINES.same_signal_s)
        pass_on(os.getpid(), TERM)
        monkeypatch.undo()
        assert inbox.get(20) == SignalReceived(TERM)


def test_before_a_run_hears_it_a_passed_on_signal_does_what_the_signal_would() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            hear_passed_on()
            pass_on(os.getpid(), signal.SIGINT)
            time.sleep(20)
        except KeyboardInterrupt:
            os._exit(5)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
