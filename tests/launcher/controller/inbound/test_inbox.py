"""One queue for everything, and threads whose results come over it."""

from __future__ import annotations

import socket
import threading

import pytest
from dougong.control.channel import Channel
from dougong.control.messages import Heartbeat, WorkerExited, encode
from dougong.deadlines import DEADLINES
from dougong.launcher.controller.inbound.inbox import Background, Inbox
from dougong.launcher.controller.inbound.items import AgentBeat, AgentMessage, BackendOpened, PeerRefused, TaskFailed


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


def test_of_heartbeats_the_newest_of_each_connection_is_kept_and_read_when_it_is_wanted(inbox: Inbox) -> None:
    read: list[str] = []
    east, west = channel("east"), channel("west")
    for number in (1, 2, 3):
        inbox.put_beat(beat(east, number, read))
    inbox.put_beat(beat(west, 1, read))
    assert inbox.get(0) is None, "nobody is woken for a heartbeat"
    said = [item.read() for item in inbox.take_beats()]
    assert [one.message.sequence for one in said if one is not None] == [3, 1]  # type: ignore[union-attr]
    assert list(inbox.take_beats()) == []
    inbox.put_beat(
        AgentBeat("east", east, b'{"kind":"heartbeat"}', 0.0, lambda who, error: read.append(f"{who}: {error}"))
    )
    assert [item.read() for item in inbox.take_beats()] == [None]
    assert read == ["agent east: east: not a message: heartbeat.generation is missing"]


def test_a_heartbeat_stays_before_what_its_agent_says_next(inbox: Inbox) -> None:
    east, west = channel("east"), channel("west")
    inbox.put_beat(beat(east, 1, []))
    inbox.put_beat(beat(west, 1, []))
    exited = AgentMessage("east", east, WorkerExited(1, "east/0", "train", 1))
    inbox.put_said(exited)
    inbox.put_beat(beat(east, 2, []))
    first = inbox.get(0)
    assert isinstance(first, AgentBeat) and first.frame == encode(Heartbeat(1, 1, {})).rstrip()
    assert inbox.get(0) is exited and inbox.get(0) is None
    assert [item.channel for item in inbox.take_beats()] == [west, east]


def channel(name: str) -> Channel:
    ours, _ = socket.socketpair()
    return Channel(ours, name, DEADLINES)


def beat(channel: Channel, number: int, told: list[str]) -> AgentBeat:
    frame = encode(Heartbeat(1, number, {})).rstrip()
    return AgentBeat(channel.peer, channel, frame, 0.0, lambda who, error: told.append(who))
