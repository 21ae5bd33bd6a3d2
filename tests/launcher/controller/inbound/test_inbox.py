"""One queue for everything, and threads whose results come over it."""

from __future__ import annotations

import threading

import pytest
from dougong.launcher.controller.inbound.inbox import Background, Inbox
from dougong.launcher.controller.inbound.items import BackendOpened, PeerRefused, TaskFailed


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def test_items_come_in_their_order_and_nothing_comes_as_none(inbox: Inbox) -> None:
    for text in ("a", "b"):
        inbox.put(PeerRefused(text))
    assert [inbox.get(1), inbox.get(1)] == [PeerRefused("a"), PeerRefused("b")]
    assert inbox.get(0) is None and inbox.get(-1) is None


def test_results_and_errors_come_over_the_inbox_in_the_order_of_the_calls(inbox: Inbox) -> None:
    background, mistake = Background("test", inbox), OSError("no route")

    def fail() -> BackendOpened:
        raise mistake

    background.call(lambda: BackendOpened("a"))
    background.call(fail)
    background.call(lambda: None)
    background.call(lambda: BackendOpened("b"))
    assert [inbox.get(20) for _ in range(3)] == [BackendOpened("a"), TaskFailed(mistake), BackendOpened("b")]


def test_the_end_waits_for_what_runs_in_the_background(inbox: Inbox) -> None:
    """A run that fails at once must not end its interpreter in the middle of an import."""
    background, begun, ended = Background("test-settle", inbox), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        threading.Event().wait(0.3)
        ended.set()

    background.call(work)
    assert begun.wait(10) and not ended.is_set()
    assert background.settle(10)
    assert ended.is_set()
    background.call(lambda: threading.Event().wait(60) and None)
    assert not background.settle(0.01)  # a limit is kept
