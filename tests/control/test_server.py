"""Who has proved nothing yet, and what is said of those that were turned away; the door itself: `test_channel.py`."""

from __future__ import annotations

import socket
import threading

import pytest
from dougong.control.server import MOST_ADDRESSES, Refusals, Server, Strangers
from dougong.deadlines import DEADLINES


def test_of_too_many_strangers_the_oldest_of_the_busiest_address_goes() -> None:
    pairs = [socket.socketpair() for _ in range(5)]
    strangers = Strangers(3)
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for number, address in enumerate(["flood", "peer", "flood"]):
        assert strangers.admit(ours[number], address) is None
    assert strangers.admit(ours[3], "flood") is ours[0]
    strangers.release(ours[0])  # it ends, and is counted no more
    strangers.release(ours[1])
    assert strangers.admit(ours[4], "peer") is None
    assert strangers.admit(ours[1], "peer") is ours[2]
    for sock in (*ours, *theirs):
        sock.close()


def test_of_one_address_there_are_fewer_and_others_lose_nothing_by_it() -> None:
    pairs = [socket.socketpair() for _ in range(6)]
    strangers = Strangers(100, most_of_one=2)
    addresses = ["peer", "flood", "flood", "flood", "flood", "peer"]
    gone = [strangers.admit(pair[0], address) for pair, address in zip(pairs, addresses, strict=True)]
    assert gone == [None, None, None, pairs[1][0], pairs[2][0], None]
    for sock in (sock for pair in pairs for sock in pair):
        sock.close()


def test_an_address_is_told_of_once_and_then_at_each_power_of_ten() -> None:
    refusals = Refusals()
    told = [refusals.words("10.0.0.9", f"refused {number}") for number in range(1, 1501)]
    assert refusals.words("10.0.0.8", "another") == "10.0.0.8: another"
    assert [text for text in told if text] == [
        "10.0.0.9: refused 1",
        "10.0.0.9: 10 refused so far; the last: refused 10",
        "10.0.0.9: 100 refused so far; the last: refused 100",
        "10.0.0.9: 1,000 refused so far; the last: refused 1000",
    ]


@pytest.mark.parametrize("num_addresses", [MOST_ADDRESSES + 9, 5000])
def test_any_number_of_addresses_is_told_in_few_words(num_addresses: int) -> None:
    refusals = Refusals()
    told = [refusals.words(f"fd00::{number:x}", "refused") for number in range(num_addresses)]
    others = [text for text in told if text.startswith("other addresses")]
    assert len([text for text in told if text]) == MOST_ADDRESSES + len(others)
    assert 1 <= len(others) <= 4


def test_one_that_is_closed_at_once_ends_its_thread_in_peace() -> None:
    """What a thread raises fails a test."""
    for _ in range(100):
        Server("127.0.0.1", "secret", lambda hello, channel: None, lambda text: None, DEADLINES).close()
    for thread in threading.enumerate():
        if thread.name == "dougong-accept":
            thread.join(10)
            assert not thread.is_alive()
