"""The store of one generation: what a question answers, to whom, and when."""

from __future__ import annotations

from base64 import b64encode

from dougong.control.worker_messages import StoreReply, StoreRequest
from dougong.launcher.controller.inbound.meeting_store import MeetingStore


def text(value: bytes) -> str:
    return b64encode(value).decode()


def put(number: int, key: str, value: bytes = b"x") -> StoreRequest:
    return StoreRequest(number, "set", (key,), text(value))


def test_who_asks_for_what_is_there_is_answered_at_once() -> None:
    store = MeetingStore()
    assert store.ask("a/0", put(1, "key", b"one")) == [("a/0", StoreReply(1))]
    assert store.ask("a/1", StoreRequest(7, "get", ("key",))) == [("a/1", StoreReply(7, text(b"one")))]
    assert store.ask("a/1", StoreRequest(8, "wait", ("key",))) == [("a/1", StoreReply(8))]
    assert store.ask("a/1", StoreRequest(9, "check", ("key", "other"))) == [("a/1", StoreReply(9, amount=0))]
    assert store.ask("a/1", StoreRequest(10, "delete", ("key",))) == [("a/1", StoreReply(10, amount=1))]
    assert store.ask("a/1", StoreRequest(11, "check", ("key",))) == [("a/1", StoreReply(11, amount=0))]


def test_who_waits_is_answered_when_the_last_key_comes() -> None:
    store = MeetingStore()
    assert store.ask("a/0", StoreRequest(1, "wait", ("one", "two"))) == []
    assert store.ask("a/1", StoreRequest(1, "get", ("two",))) == []
    assert store.ask("a/2", put(5, "one")) == [("a/2", StoreReply(5))]
    assert store.ask("a/2", put(6, "two", b"2")) == [
        ("a/2", StoreReply(6)), ("a/0", StoreReply(1)), ("a/1", StoreReply(1, text(b"2"))),
    ]  # fmt: skip
    assert store.ask("a/2", StoreRequest(7, "add", ("two",), amount=3)) == [("a/2", StoreReply(7, amount=5))]
    assert store.ask("a/2", StoreRequest(8, "add", ("new",), amount=-1)) == [("a/2", StoreReply(8, amount=-1))]


def test_it_takes_so_many_bytes_and_no_more() -> None:
    store = MeetingStore(most_bytes=20)
    assert store.ask("a/0", put(1, "key", b"0" * 17)) == [("a/0", StoreReply(1))]
    ((_, refused),) = store.ask("a/0", put(2, "k2", b"0"))
    assert refused.error == "the controller's store is full (20 bytes)"
    assert store.ask("a/0", put(3, "key", b"0" * 10)) == [("a/0", StoreReply(3))]  # in the place of the longer one
    assert store.ask("a/0", put(4, "k2", b"0" * 5)) == [("a/0", StoreReply(4))]
    store.ask("a/0", StoreRequest(5, "delete", ("key",)))
    assert store.ask("a/0", put(6, "k3", b"0" * 11)) == [("a/0", StoreReply(6))]
